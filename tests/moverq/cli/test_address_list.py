"""Addresses from a file or stdin: what is one, and what is said of what is none."""

from pathlib import Path

import pytest

from moverq.cli import common
from moverq.cli.address_list import read_addresses
from moverq.errors import RequestRefused
from tests.support.cli import Here

ADA, BOB = "ada@example.org", "bob@example.org"


@pytest.mark.parametrize(
    "text",
    [
        b"ada@example.org\nbob@example.org\n",
        b"\xef\xbb\xbfada@example.org\r\n\r\n  # the second floor\r\n bob@example.org ",
        b"EmailAddress\nada@example.org\nbob@example.org",
        b'#TYPE Selected.User\r\n"Name","emailaddress"\r\n"Ada, \r\nof the first floor","ada@example.org"\r\n'
        b',\r\n#Bert,"bert@example.org"\r\n"Bob","bob@example.org"\r\n',
        "EmailAddress,Name\nada@example.org,Ada\nbob@example.org,Bob\n".encode("utf-16"),
    ],
)
def test_a_list_is_one_address_a_line_or_a_column_of_a_csv(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "list").write_bytes(text)
    assert [one.address for one in read_addresses(tmp_path / "list").listed] == [ADA, BOB]


def test_a_line_is_counted_as_an_editor_counts_it(tmp_path: Path) -> None:
    (tmp_path / "list").write_text(
        '# all\n\nName,EmailAddress\n"Ada\nof the first floor",ada@example.org\n\nBob,bob@x.org'
    )
    assert [one.place.split()[-1] for one in read_addresses(tmp_path / "list").listed] == ["5", "7"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "there is no address in"),
        (b"# nobody\n", "there is no address in"),
        (b"EmailAddress\n\n", "there is no address in"),
        (b"\xff\xff\n", "neither UTF-8 nor UTF-16"),
        (b"Name,EmailAddress\nAda,ada@example.org\nBob\n", "line 3: there is no EmailAddress in this row"),
        (b"EmailAddress\n" + b"a" * 200_000, "line 2: this is no CSV"),
    ],
)
def test_what_is_no_list_is_refused_with_its_line(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "list").write_bytes(text)
    with pytest.raises(RequestRefused, match=said):
        read_addresses(tmp_path / "list")


def test_moves_are_asked_for_from_a_list_and_what_is_refused_is_said_with_its_line(cli: Here, tmp_path: Path) -> None:
    cli.ok("mailbox", "add", BOB, "--database", "DB1")
    (tmp_path / "list.csv").write_text("EmailAddress,TargetDatabase\nnobody@example.org,DB7\nbob@example.org,DB7\n")
    answer = cli("move", "new", ADA, "--addresses", str(tmp_path / "list.csv"), "--to", "DB2", "--json")
    assert answer.code == common.FAILED
    assert {one["address"] for one in answer.json} == {ADA, BOB}
    assert "list.csv, line 2: there is no mailbox nobody@example.org" in answer.err
    assert "only the column EmailAddress is read, and not TargetDatabase" in answer.err


def test_the_same_list_on_stdin_with_the_same_key_asks_for_the_same_moves(cli: Here) -> None:
    def asked(*addresses: str) -> dict[str, str]:
        words = ("move", "new", "--addresses", "-", "--to", "DB2", "--key", "spring", "--json")
        found = cli.ok(*words, stdin="\n".join(addresses).encode()).json
        return {one["address"]: one["request_id"] for one in (found if isinstance(found, list) else [found])}

    cli.ok("mailbox", "add", BOB, "--database", "DB1")
    first = asked(ADA)
    assert asked(ADA, "# and then", BOB)[ADA] == first[ADA]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--to", "DB2"], common.REFUSED, "name the mailboxes to move"),
        (["--to", "DB2", "--addresses", "/there/is/nothing"], common.NOT_FOUND, "no file /there/is/nothing"),
        (["--to", "DB2", "--addresses", "/"], common.BROKEN, "directory"),
        (["--to", "DB9", "--addresses", "-"], common.NOT_FOUND, "no database DB9"),
    ],
)
def test_what_holds_for_the_whole_list_is_said_once(cli: Here, words: list[str], code: int, said: str) -> None:
    answer = cli("move", "new", *words, stdin=b"x@example.org\ny@example.org\n")
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1
