"""Mail files: what was written comes back, what is found is read byte for byte, and what is no mail is said."""

import hashlib
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moverq.errors import EndpointBroken, NotFound, RequestRefused
from moverq.mailfiles import MailItem, NotMail, read_mail, write_eml, write_maildir, write_mbox
from moverq.mailfiles.item import canonical_folder
from moverq.mailfiles.mbox import folder_name
from moverq.mailfiles.names import decode_name, encode_utf7, safe_name
from moverq.mailfiles.text import from_line_ms, header_ms, with_crlf
from moverq.model.change import Flag
from tests.support.corpus import CORPUS, MISSING, unpack_corpus

HEADER = b"From: a@example.org\r\nSubject: x\r\n\r\n"
BARE = b"From: a@example.org\nSubject: x\n\n"


def mail(path: Path) -> list[MailItem]:
    return [found for found in read_mail(path) if isinstance(found, MailItem)]


def complaints(path: Path) -> dict[str, str]:
    return {
        Path(found.path).relative_to(path).as_posix(): found.why
        for found in read_mail(path)
        if isinstance(found, NotMail)
    }


def put(path: Path, content: bytes = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# fmt: off
ODD_NAMES = [
    "INBOX", "inbox", "Sent", "sent", "SENT", "a/b", ".", "..", "a.b", "new", "cur", "tmp", "ß", "&", "é", "e\u0301",
    "a.mbox", "000001.eml", "index.jsonl", "folders.jsonl", "\\", "&AOk-", ".hidden", "Entwürfe", "~", "a~2",
    "tail ", "x" * 300, "\0", "nul\0",
]
# fmt: on
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.sampled_from(ODD_NAMES)
folders = st.lists(names, min_size=1, max_size=3).map(lambda levels: canonical_folder(tuple(levels)))
A_MESSAGE_INSIDE = b"\nFrom a Mon Jan  1 12:00:00 2001\nA: b\n"
lines = st.sampled_from(
    [b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"From x\n", b">From ", b">>From b\r\n", A_MESSAGE_INSIDE, HEADER, BARE]
)
contents = st.lists(lines | st.binary(min_size=1, max_size=20), min_size=1, max_size=6).map(b"".join)
keyword = st.sampled_from(["$Forwarded", "work", "Ünïcode", "with space", *(f"k{n}" for n in range(40))])
items = st.lists(
    st.builds(
        MailItem,
        folder=folders,
        content=contents,
        received_ms=st.integers(0, 4_000_000_000_000),
        flags=st.integers(0, 31),
        keywords=st.sets(keyword, max_size=5).map(lambda found: tuple(sorted(found))),
    ),
    max_size=8,
)


def there_and_back(write: Callable[..., int], given: Iterable[MailItem]) -> list[MailItem | NotMail]:
    with TemporaryDirectory() as place:
        write(Path(place) / "export", given, sync=False)
        return list(read_mail(Path(place) / "export"))


def key(item: MailItem) -> tuple[object, ...]:
    return (item.folder, item.content, item.received_ms, item.flags, item.keywords)


@settings(max_examples=150, deadline=None)
@given(items)
def test_an_eml_export_imports_back_completely(given: list[MailItem]) -> None:
    assert there_and_back(write_eml, given) == given


@settings(max_examples=150, deadline=None)
@given(items)
def test_a_maildir_export_imports_back_completely(given: list[MailItem]) -> None:
    found = there_and_back(write_maildir, given)
    assert sorted(map(key, found)) == sorted(map(key, given))


@settings(max_examples=150, deadline=None)
@given(items)
def test_an_mbox_export_imports_back_with_bytes_and_folders(given: list[MailItem]) -> None:
    found = there_and_back(write_mbox, given)
    assert not [entry for entry in found if isinstance(entry, NotMail)]
    expected = [
        (
            item.folder,
            item.content if item.content.endswith(b"\n") else item.content + b"\r\n",
            item.received_ms // 1000,
        )
        for item in given
    ]
    assert sorted((item.folder, item.content, item.received_ms // 1000) for item in found) == sorted(expected)


@pytest.mark.parametrize("write", [write_eml, write_maildir, write_mbox])
def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, write: Callable[..., int]) -> None:
    put(tmp_path / "keep", b"mine")
    with pytest.raises(RequestRefused, match="not empty"):
        write(tmp_path, [])
    assert [entry.name for entry in tmp_path.iterdir()] == ["keep"]


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list(read_mail(tmp_path / "nowhere"))


def test_a_maildir_is_read_with_its_folders_flags_keywords_and_dates(tmp_path: Path) -> None:
    cur = tmp_path / "cur"
    one = put(cur / "1.a:2,FSab", BARE)
    os.utime(one, (1_700_000_000, 1_700_000_000))
    put(tmp_path / "new" / "2.b", HEADER + b"bare\nand crlf\r\n")
    put(tmp_path / "dovecot-keywords", b"0 work\n1 $Label1\nnonsense\n" + b"9" * 5000 + b" many\n")
    put(tmp_path / ".Entw&APw-rfe.Alt" / "cur" / "3.c:2,DPRT")
    put(tmp_path / ".B\u00fccher" / "cur" / "4.d:2,")
    put(tmp_path / "Layout" / "fs" / "new" / "5.e")
    put(tmp_path / "Layout" / "fs" / "cur" / "6.f:2,S")
    put(tmp_path / "tmp" / "7.g")
    found = {Path(item.source).name[:1]: item for item in mail(tmp_path)}
    assert sorted(found) == ["1", "2", "3", "4", "5", "6"]
    assert found["1"].content == with_crlf(BARE)
    assert (found["1"].flags, found["1"].keywords) == (Flag.FLAGGED | Flag.SEEN, ("$Label1", "work"))
    assert found["1"].received_ms == 1_700_000_000_000
    assert found["2"].content == HEADER + b"bare\nand crlf\r\n", "with a CRLF in it, nothing is touched"
    assert (found["2"].folder, found["2"].flags) == (("INBOX",), 0)
    assert found["3"].folder == ("Entwürfe", "Alt")
    assert found["3"].flags == Flag.DRAFT | Flag.ANSWERED | Flag.DELETED
    assert found["3"].keywords == ("$Forwarded",)
    assert found["4"].folder == ("Bücher",)
    assert found["5"].folder == found["6"].folder == ("Layout", "fs")
    assert complaints(tmp_path) == {"tmp/7.g": "a delivery that was never finished"}


def test_a_maildir_in_use_is_read_whole(tmp_path: Path) -> None:
    """Its user's mail program moves mail from new to cur, and changes flags, after the first message was read."""
    for number in range(3):
        put(tmp_path / "cur" / f"{number}.a,S=35:2,S", HEADER + b"%d" % number)
    for number in (3, 4):
        put(tmp_path / "new" / f"{number}.a", HEADER + b"%d" % number)
    reading = read_mail(tmp_path)
    found = [next(reading)]
    (tmp_path / "new" / "3.a").rename(tmp_path / "cur" / "3.a:2,")
    (tmp_path / "cur" / "1.a,S=35:2,S").rename(tmp_path / "cur" / "1.a:2,RS")
    (tmp_path / "cur" / "2.a,S=35:2,S").unlink()
    found += reading
    assert [(item.content[-1:], item.flags) for item in found if isinstance(item, MailItem)] == [
        (b"0", Flag.SEEN),
        (b"1", Flag.SEEN | Flag.ANSWERED),
        (b"3", 0),
        (b"4", 0),
    ]
    (gone,) = (item for item in found if isinstance(item, NotMail))
    assert (gone.may_be_mail, Path(gone.path).name[:1]) == (True, "2")


def test_mail_that_moves_on_while_a_maildir_is_listed_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        put(tmp_path / "new" / f"{number}.a", HEADER + b"%d" % number)
    put(tmp_path / "cur" / "0.a:2,", HEADER)
    scandir = os.scandir

    def scan(path: Path) -> object:
        if Path(path).name == "cur" and (tmp_path / "new" / "1.a").exists():
            (tmp_path / "new" / "1.a").rename(tmp_path / "cur" / "1.a:2,S")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert sorted(item.content[-1:] for item in mail(tmp_path)) == [b"\n", b"1", b"2"]
    assert len(list(read_mail(tmp_path))) == 3


def test_a_size_as_mail_decides_whether_line_ends_are_exact(tmp_path: Path) -> None:
    put(tmp_path / "cur" / f"1.a,S={len(BARE)},W={len(with_crlf(BARE))}:2,", BARE)
    put(tmp_path / "cur" / f"2.a,S={len(BARE)},W={len(BARE)}:2,", BARE)
    assert [item.content for item in mail(tmp_path)] == [with_crlf(BARE), BARE]


def test_a_moved_folder_no_longer_has_the_name_it_was_written_with(tmp_path: Path) -> None:
    write_maildir(tmp_path / "m", [MailItem(("a.b",), HEADER, 0, 0, ())], sync=False)
    (folder,) = [entry for entry in (tmp_path / "m").iterdir() if entry.name.startswith(".")]
    assert [item.folder for item in mail(tmp_path / "m")] == [("a.b",)]
    folder.rename(tmp_path / "m" / ".Other")
    assert [item.folder for item in mail(tmp_path / "m")] == [("Other",)]


def test_an_mbox_is_split_at_dated_from_lines_and_unquoted(tmp_path: Path) -> None:
    path = put(
        tmp_path / "Projects" / "Berlin.mbox",
        b"From a@b Tue Nov 14 22:13:20 2023\n" + BARE + b">From here\n>>From there\nFrom now on it is text\n\n"
        b"From - Tue Nov 14 23:13:21 2023 +0100\n" + BARE + b"end\n\n\n"
        b"From x  Tue Nov 14 22:13 2023\nStatus: RO\nX-Status: AF\n" + BARE + b"no end",
    )
    one, two, three = mail(tmp_path)
    assert one.folder == ("Projects", "Berlin")
    assert one.content == with_crlf(BARE + b"From here\n>From there\nFrom now on it is text\n")
    assert (one.received_ms, one.flags, one.source) == (1_700_000_000_000, 0, f"{path}#1")
    assert two.content == with_crlf(BARE + b"end\n\n"), "one empty line is the format's"
    assert two.received_ms == 1_700_000_001_000
    assert three.content == with_crlf(b"Status: RO\nX-Status: AF\n" + BARE + b"no end")
    assert three.flags == Flag.SEEN | Flag.ANSWERED | Flag.FLAGGED
    assert three.received_ms == 1_699_999_980_000
    assert mail(path) == [MailItem(("Berlin",), *key(item)[1:]) for item in (one, two, three)]


def test_what_mail_programs_keep_in_an_mbox_is_no_message(tmp_path: Path) -> None:
    line = b"From MAILER-DAEMON Tue Nov 14 22:13:20 2023\n"
    internal = (
        b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1700000000 0000000017\n\nThis text\n\n"
    )
    path = put(tmp_path / "a.mbox", line + internal + line + BARE + b"\n" + line + internal)
    found = list(read_mail(path))
    assert [isinstance(item, MailItem) for item in found] == [False, True, True]
    assert found[0] == NotMail(f"{path}#1", "no message: what mail programs keep of their folder")


def test_an_mbox_that_is_written_to_meanwhile_is_said_to_be(tmp_path: Path) -> None:
    line = b"From a@b Tue Nov 14 22:13:20 2023\n"
    path = put(tmp_path / "a.mbox", line + BARE + b"\n" + line + BARE + b"\n")
    reading = read_mail(path)
    assert isinstance(next(reading), MailItem)
    with path.open("ab") as file:
        file.write(line + BARE)
    *_, last = reading
    assert isinstance(last, NotMail)
    assert (last.may_be_mail, "written to while it was read" in last.why) == (True, True)
    assert all(isinstance(item, MailItem) for item in read_mail(path))


def test_one_crlf_in_an_mbox_leaves_all_of_it_as_it_is(tmp_path: Path) -> None:
    line = b"From a Tue Nov 14 22:13:20 2023\n"
    put(tmp_path / "inbox", line + BARE + b"bare\n\n" + line + BARE + b"x\r\n")
    assert [item.content for item in mail(tmp_path)] == [BARE + b"bare\n", BARE + b"x\r\n"]
    assert {item.folder for item in mail(tmp_path)} == {("INBOX",)}


def test_netscape_mboxes_without_empty_lines_and_dates_are_split(tmp_path: Path) -> None:
    put(tmp_path / "Inbox", b"From -\nDate: x\n\nFrom me\n\nFrom you: nothing\nFrom -\nDate: y\n\nb\n")
    assert [item.content for item in mail(tmp_path)] == [
        b"Date: x\r\n\r\nFrom me\r\n\r\nFrom you: nothing\r\n",
        b"Date: y\r\n\r\nb\r\n",
    ]


def test_oddities_survive_in_every_format(tmp_path: Path) -> None:
    odd = [
        HEADER + b"nul \0 and bare \r and \xff\r\n",
        b"X-Long: " + b"y" * 200_000 + b"\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n\r\n" + b"body\r\n",
        b"no header at all\r\n",
        b"\r\n\r\n",
    ]
    given = [MailItem(("INBOX",), content, 1_700_000_000_000, 0, ()) for content in odd]
    for write in (write_eml, write_maildir, write_mbox):
        write(tmp_path / write.__name__, given)
        assert sorted(map(key, mail(tmp_path / write.__name__))) == sorted(map(key, given))
    put(tmp_path / "loose" / "long.eml", odd[1])
    assert mail(tmp_path / "loose")[0].received_ms == 1_700_000_000_000


def test_loose_messages_take_their_folder_from_the_folder_and_their_date_from_the_header(tmp_path: Path) -> None:
    received = b"Received: from a by b;\r\n\t Tue, 14 Nov 2023 22:13:20 +0000 (UTC)\r\n"
    put(tmp_path / "1.eml", received + b"Date: Mon, 1 Jan 2001 00:00:00 +0000\r\n" + HEADER)
    put(tmp_path / "2.eml", b"Date: Tue, 14 Nov 2023 23:13:20 +0100\r\n" + HEADER)
    os.utime(put(tmp_path / "Sub" / "nested" / "3", b"Date: never\n" + BARE), (1_600_000_000, 1_600_000_000))
    put(tmp_path / "4.eml", b"From a@b  Tue Nov 14 22:13:20 2023\n" + BARE + b"\nFrom me, to you\n")
    found = mail(tmp_path)
    assert [item.folder for item in found] == [("INBOX",), ("INBOX",), ("INBOX",), ("Sub", "nested")]
    assert [item.received_ms // 1000 for item in found] == [1_700_000_000] * 3 + [1_600_000_000]
    assert found[2].content == with_crlf(BARE + b"\nFrom me, to you\n"), "an .eml is one message"
    assert mail(tmp_path / "4.eml") == [found[2]]


def test_an_edited_eml_is_read_as_it_is_and_reported_a_new_one_joins(tmp_path: Path) -> None:
    given = [MailItem(("Sent",), HEADER + b"%d\r\n" % n, 5, Flag.SEEN, ("k",)) for n in range(3)]
    write_eml(tmp_path / "x", given)
    put(tmp_path / "x" / "Sent" / "000001.eml", HEADER + b"edited\r\n")
    (tmp_path / "x" / "Sent" / "000002.eml").unlink()
    put(tmp_path / "x" / "Sent" / "000004.eml", b"Date: Thu, 1 Jan 1970 00:00:01 +0000\r\n" + HEADER)
    found = mail(tmp_path / "x")
    assert [(item.content.removeprefix(HEADER), item.flags, item.keywords) for item in found[:2]] == [
        (b"edited\r\n", Flag.SEEN, ("k",)),
        (b"2\r\n", Flag.SEEN, ("k",)),
    ]
    assert [(item.folder, item.received_ms, item.flags) for item in found[2:]] == [(("Sent",), 1000, 0)]
    said = complaints(tmp_path / "x")
    assert "differs" in said["Sent/000001.eml"]
    assert "cannot be read" in said["Sent/000002.eml"]


def test_an_export_that_was_cut_short_is_read_and_said(tmp_path: Path) -> None:
    def dying() -> Iterator[MailItem]:
        yield MailItem(("Sent",), HEADER, 0, Flag.SEEN, ())
        raise KeyboardInterrupt

    for write in (write_eml, write_maildir, write_mbox):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / write.__name__, dying())
        assert [item.content for item in mail(tmp_path / write.__name__)] == [HEADER]
        with pytest.raises(RequestRefused, match="not empty"):
            write(tmp_path / write.__name__, [])
    assert "cut short" in complaints(tmp_path / "write_eml")["."]


@pytest.mark.parametrize("write", [write_eml, write_maildir, write_mbox])
def test_a_place_that_cannot_be_written_says_so(tmp_path: Path, write: Callable[..., int]) -> None:
    put(tmp_path / "file")
    with pytest.raises(EndpointBroken, match="cannot be written: Not a directory"):
        write(tmp_path / "file" / "below", [])


def test_exports_below_one_folder_are_read_each_below_its_own(tmp_path: Path) -> None:
    given = [MailItem(("INBOX",), HEADER, 5, Flag.FLAGGED, ("k",)), MailItem(("a/b",), BARE, 6, 0, ())]
    write_eml(tmp_path / "anna", given)
    write_mbox(tmp_path / "bert", given[1:])
    write_maildir(tmp_path / "carl", given[1:])
    assert [key(item) for item in mail(tmp_path)][:2] == [
        (("anna", "INBOX"), HEADER, 5, Flag.FLAGGED, ("k",)),
        (("anna", "a/b"), BARE, 6, 0, ()),
    ]
    assert [item.folder for item in mail(tmp_path)][2:] == [("bert", "a/b"), ("carl", "a/b")]


def test_an_index_that_names_a_loop_of_links_is_read_past_it(tmp_path: Path) -> None:
    put(tmp_path / "1.eml")
    (tmp_path / "loop").symlink_to("loop")
    line = {"folder": ["A"], "received_ms": 1, "flags": [], "keywords": [], "sha256": "0"}
    lines = [json.dumps({"file": name, **line}) for name in ("loop", "1.eml")]
    put(tmp_path / "index.jsonl", "\n".join(lines).encode())
    assert [one.content for one in mail(tmp_path)] == [HEADER]
    assert "loop" in complaints(tmp_path)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.eml")
    line = {"file": "../secret.eml", "folder": ["INBOX"], "received_ms": 0, "flags": [], "keywords": [], "bytes": 0}
    line["sha256"] = hashlib.sha256(secret.read_bytes()).hexdigest()
    put(tmp_path / "x" / "index.jsonl", json.dumps(line).encode() + b"\nnonsense\n")
    assert mail(tmp_path / "x") == []
    assert next(iter(complaints(tmp_path / "x").values())).startswith("it names a file outside")


def test_what_is_no_mail_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    box = tmp_path / "box"
    put(box / "good.eml")
    put(box / "empty.eml", b"")
    put(box / "photo.eml", b"\xff\xd8\xff\0\0JFIF" * 50)
    put(box / "README", b"Just text.\n")
    put(box / "notes.txt", b"Todo: buy milk\n")
    put(box / "cur.mbox", b"")
    put(tmp_path / "secret")
    (box / "out").symlink_to(tmp_path / "secret")
    (box / "loop").symlink_to(box / "loop")
    (box / "folder").symlink_to(tmp_path)
    (box / "inside.eml").symlink_to(box / "good.eml")
    os.mkfifo(box / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(box / "socket"))
        said = complaints(box)
    assert [Path(item.source).name for item in mail(box)] == ["good.eml", "inside.eml"]
    expected = ["README", "cur.mbox", "empty.eml", "folder", "loop", "notes.txt", "out", "photo.eml", "pipe", "socket"]
    assert sorted(said) == expected
    assert "leads out" in said["out"]
    assert said["pipe"] == said["socket"] == "no regular file"
    assert said["empty.eml"] == "empty"


def test_no_folder_of_a_maildir_leads_out_of_it(tmp_path: Path) -> None:
    put(tmp_path / "secret" / "1.x")
    box = tmp_path / "box"
    put(box / "cur" / "1.x")
    (box / "new").symlink_to(tmp_path / "secret")
    (box / "dovecot-keywords").symlink_to(put(tmp_path / "keywords", b"0 secret\n"))
    put(box / "cur" / "2.x:2,a")
    assert [(Path(item.source).parent.name, item.keywords) for item in mail(box)] == [("cur", ()), ("cur", ())]
    assert "leads out" in complaints(box)["new/1.x"]


def test_a_pipe_for_a_side_file_holds_nothing_up(tmp_path: Path) -> None:
    put(tmp_path / "cur" / "1.x:2,a")
    put(tmp_path / ".A" / "cur" / "1.x")
    for name in ("dovecot-keywords", "moverq-keywords.jsonl", ".A/moverq-folder.json", "index.jsonl", "folders.jsonl"):
        os.mkfifo(tmp_path / name)
    assert [item.folder for item in mail(tmp_path)] == [("INBOX",), ("A",)]


@pytest.mark.parametrize("target", ["secret", "pipe"])
def test_what_is_put_in_place_of_an_mbox_that_was_looked_at_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    put(tmp_path / "secret", b"From a Mon Jan  1 12:00:00 2001\n" + BARE)
    os.mkfifo(tmp_path / "pipe")
    path = put(tmp_path / "box" / "a.mbox", b"From a Mon Jan  1 12:00:00 2001\n" + BARE)

    def swapped(name: str) -> str:
        path.unlink()
        path.symlink_to(tmp_path / target)
        return folder_name(name)

    monkeypatch.setattr("moverq.mailfiles.read.folder_name", swapped)
    assert mail(tmp_path / "box") == []


def test_names_are_safe_distinct_and_short() -> None:
    taken: set[str] = set()
    made = [
        safe_name(name, taken, ending=".mbox")
        for name in [
            "a",
            "A",
            "a/b",
            "a_b",
            ".",
            "..",
            "",
            "tail ",
            "tail.",
            "x" * 300,
            "ü" * 300,
            "new",
            "e\u0301",
            "é",
        ]
    ]
    assert len({name.casefold() for name in made}) == len(made)
    for name in made:
        assert "/" not in name
        assert not name.startswith((".", " "))
        assert len(name.encode()) < 255


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Entw&APw-rfe", "Entwürfe"),
        ("A&-B", "A&B"),
        ("R&D", "R&D"),
        ("&Jjo-", "☺"),
        ("Bücher", "Bücher"),
        ("&AGE-", "&AGE-"),
    ],
)
def test_folder_names_are_decoded_once(raw: str, name: str) -> None:
    assert decode_name(raw) == name
    assert decode_name(encode_utf7(name)) == name


@pytest.mark.parametrize(
    ("line", "ms"),
    [
        (b"From a Tue Nov 14 22:13:20 2023", 1_700_000_000_000),
        (b"From a@b Tue Nov 14 22:13:20 UTC 2023", 1_700_000_000_000),
        (b"From a Tue Nov 14 23:13:20 +0100 2023", 1_700_000_000_000),
        (b"From a Tue Nov 14 22:43:20 2023 +0030", 1_700_000_000_000),
        (b"From a Tue Feb 31 22:13:20 2023", None),
        (b"From me to you", None),
    ],
)
def test_dates_of_from_lines(line: bytes, ms: int | None) -> None:
    assert from_line_ms(line) == ms


@given(st.binary(max_size=60))
def test_no_header_date_is_too_odd_to_be_read(raw: bytes) -> None:
    assert isinstance(header_ms(b"Date: " + raw + b"\r\nReceived: x;" + raw + b"\r\n\r\n"), int | None)


@pytest.mark.slow
def test_the_real_corpus_is_read_whole_and_survives_every_format(tmp_path: Path) -> None:
    if not CORPUS.exists():
        pytest.skip(MISSING)
    unpack_corpus(tmp_path)
    (root,) = tmp_path.iterdir()
    manifest = {}
    for line in (root / "MANIFEST.tsv").read_text(errors="surrogateescape").split("\n")[1:]:
        if line:
            path, kind, messages, *_ = line.split("\t")
            manifest[path] = (kind, int(messages))
    found = [item for item in read_mail(root) if isinstance(item, MailItem)]
    counts = Counter(os.path.relpath(item.source.partition("#")[0], root) for item in found)
    assert set(counts) == set(manifest)
    different = {path for path in counts if counts[path] != manifest[path][1]}
    # These two hold From_ lines without the empty line before them, which the manifest did not count.
    assert {Path(path).name for path in different} <= {"content-length.mbox.txt.mbox", "simple.mbox.txt.mbox"}
    assert len(found) >= 16_685
    for item in found:
        path = item.source
        if manifest.get(os.path.relpath(path, root), ("mbox", 0))[0] == "eml":
            raw = Path(path).read_bytes()
            if re.match(rb"From (?! *:)", raw):  # one has a header `From  : `
                raw = raw.partition(b"\n")[2]
            assert item.content == with_crlf(raw)
    for write in (write_eml, write_maildir):
        write(tmp_path / write.__name__, found, sync=False)
        assert Counter(map(key, mail(tmp_path / write.__name__))) == Counter(map(key, found))
    write_mbox(tmp_path / "mbox", found, sync=False)
    ended = [item.content if item.content.endswith(b"\n") else item.content + b"\r\n" for item in found]
    assert Counter(item.content for item in mail(tmp_path / "mbox")) == Counter(ended)
