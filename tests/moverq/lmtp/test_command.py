"""What a line of the client means, and what is refused."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moverq.lmtp.command import Command, Refusal, parse_command
from moverq.lmtp.reply import Reply


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        (b"LHLO mx.example.org", Command(verb="LHLO", address="mx.example.org")),
        (b"lhlo mx", Command(verb="LHLO", address="mx")),
        (b"MAIL FROM:<>", Command(verb="MAIL")),
        (b"mail from:<Bob@Example.net>", Command(verb="MAIL", address="Bob@Example.net")),
        (b"MAIL FROM: <bob@example.net>  SIZE=12 ", Command(verb="MAIL", address="bob@example.net", size=12)),
        (
            "MAIL FROM:<bób@example.net> body=8bitmime SMTPUTF8 SIZE=0".encode(),
            Command(verb="MAIL", address="bób@example.net", size=0, utf8=True),
        ),
        (b"MAIL FROM:<@a.example,@b.example:bob@example.net>", Command(verb="MAIL", address="bob@example.net")),
        (b'MAIL FROM:<"a>b c"@example.net>', Command(verb="MAIL", address='"a>b c"@example.net')),
        (b"RCPT TO:<ada@example.org>", Command(verb="RCPT", address="ada@example.org")),
        (b'RCPT TO:<"a\\"da"@example.org>', Command(verb="RCPT", address='a"da@example.org')),
        (b"DATA", Command(verb="DATA")),
        (b"NOOP whatever", Command(verb="NOOP", address="whatever")),
    ],
)
def test_a_command_is_understood(line: bytes, meant: Command) -> None:
    assert parse_command(line) == meant


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"", "500 5.5.1"),
        (b"EHLO mx.example.org", "500 5.5.1"),
        (b"HELO mx.example.org", "500 5.5.1"),
        (b"LHLO", "501 5.5.4"),
        (b"DATA now", "501 5.5.4"),
        (b"MAIL", "501 5.5.4"),
        (b"MAIL TO:<bob@example.net>", "501 5.5.4"),
        (b"MAIL FROM:bob@example.net", "501 5.1.7"),
        (b"MAIL FROM:<a b@example.net>", "501 5.1.7"),
        (b"MAIL FROM:<a<b@example.net>", "501 5.1.7"),
        (b"MAIL FROM:<bob@example.net>SIZE=12", "501 5.1.7"),
        (b"MAIL FROM:<bob@example.net> SIZE=many", "555 5.5.4"),
        (b"MAIL FROM:<bob@example.net> SIZE=\xd9\xa1", "555 5.5.4"),
        (b"MAIL FROM:<bob@example.net> BODY=BINARYMIME", "555 5.5.4"),
        (b"MAIL FROM:<bob@example.net> RET=FULL", "555 5.5.4"),
        ("MAIL FROM:<bób@example.net>".encode(), "553 5.6.7"),
        ("RCPT TO:<áda@example.org>".encode(), "553 5.6.7"),
        (b"RCPT TO:<>", "501 5.1.3"),
        (b"RCPT TO:<ada@example.org> NOTIFY=NEVER", "555 5.5.4"),
        (b"MAIL FROM:<a\0b@example.net>", "500 5.5.2"),
        (b"MAIL FROM:<a\rb@example.net>", "500 5.5.2"),
        (b"NOOP \xff", "500 5.5.2"),
    ],
)
def test_what_is_not_understood_is_refused_with_a_code(line: bytes, told: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_command(line)
    assert str(refused.value.reply).startswith(told)


def test_an_address_beyond_ascii_is_taken_where_smtputf8_was_asked_for() -> None:
    assert parse_command("RCPT TO:<áda@example.org>".encode(), utf8=True).address == "áda@example.org"


@given(st.binary(max_size=200) | st.builds(lambda b: b"MAIL FROM:<" + b, st.binary(max_size=100)))
def test_whatever_comes_is_a_command_or_refused(line: bytes) -> None:
    with suppress(Refusal):
        found = parse_command(line)
        assert not any(ord(ch) < 32 for ch in found.address), "it stands in a header and in replies"


@given(st.text(), st.text())
def test_a_reply_is_one_line_whatever_is_in_it(enhanced: str, text: str) -> None:
    line = bytes(Reply(250, enhanced, text * 100))
    assert line.endswith(b"\r\n")
    assert line.count(b"\n") == line.count(b"\r") == 1
    assert len(line) <= 512
