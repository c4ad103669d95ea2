"""What a tool kept of a mailbox: every message of both sides, read over IMAP by a client of its own and held together.

A message is known again by its folder, date and the hash of its bytes without a header that a tool may have added; its
flags and keywords are compared then. So a tool is told apart that changes bytes from one that loses messages.
"""

import hashlib
import imaplib
import re
from collections import Counter, defaultdict
from typing import Final, NamedTuple

from tests.support.dovecot import Dovecot

ADDED: Final = re.compile(rb"^X-TUID: [^\r\n]*\r\n", re.MULTILINE)
"""mbsync marks what it copies."""
SYSTEM: Final = frozenset((b"\\Seen", b"\\Answered", b"\\Flagged", b"\\Deleted", b"\\Draft"))
_HEAD: Final = re.compile(rb'FLAGS \(([^)]*)\).*INTERNALDATE "([^"]*)"')


class Mail(NamedTuple):
    key: bytes
    is_same: bool
    """Nothing was added."""
    has_message_id: bool
    system: frozenset[bytes]
    keywords: frozenset[bytes]
    date: str


def read(server: Dovecot, user: str) -> dict[str, list[Mail]]:
    """By folder, with one separator."""
    client = server.login(user)
    found: dict[str, list[Mail]] = {}
    try:
        for line in client.list()[1]:
            assert isinstance(line, bytes)
            head, name = line.decode().split('" ', 1)
            if "\\Noselect" in head or "\\NonExistent" in head:
                continue
            assert client.select(name, readonly=True)[0] == "OK", name
            folder = name.strip('"').replace(head[-1], "/")
            found[folder] = []
            for part in client.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")[1]:
                if isinstance(part, tuple):
                    found[folder].append(_mail(part[0], part[1]))
    finally:
        client.shutdown()
    return found


def _mail(head: bytes, content: bytes) -> Mail:
    said = _HEAD.search(head)
    assert said is not None, head
    words = frozenset(said[1].split()) - {b"\\Recent"}
    plain = ADDED.sub(b"", content)
    date = imaplib.Internaldate2tuple(head + b")")
    return Mail(
        hashlib.blake2b(plain, digest_size=16).digest(),
        plain == content,
        b"\nMessage-ID:" in b"\n" + plain[:2000],
        words & SYSTEM,
        words - SYSTEM,
        str(date[:6]) if date is not None else "",
    )


def compare(source: dict[str, list[Mail]], target: dict[str, list[Mail]]) -> dict[str, int]:
    """How many, of each kind of loss. All zero: the target is the source."""
    lost: Counter[str] = Counter()
    for folder in source.keys() | target.keys():
        here: dict[bytes, list[Mail]] = defaultdict(list)
        there: dict[bytes, list[Mail]] = defaultdict(list)
        for mail in source.get(folder, ()):
            here[mail.key].append(mail)
        for mail in target.get(folder, ()):
            there[mail.key].append(mail)
        lost["folders missing"] += folder not in target
        lost["folders too many"] += folder not in source
        for key in here.keys() | there.keys():
            _compare_equal(sorted(here[key]), sorted(there[key]), lost)
    return {name: count for name, count in lost.items() if count}


def _compare_equal(here: list[Mail], there: list[Mail], lost: Counter[str]) -> None:
    """Messages of the same bytes: copies of one."""
    missing = len(here) - len(there)
    if missing > 0:
        kind = "missing"
        if sum(b"\\Deleted" not in mail.system for mail in here) == len(there):
            kind = "\\Deleted mail missing"
        elif there:
            kind = "duplicates dropped"
        elif not here[0].has_message_id:
            kind = "mail without Message-ID missing"
        lost[kind] += missing
    elif missing < 0:
        kind = "too many" if here else "not deleted, or not of the source"
        if here and not here[0].has_message_id:
            kind = "mail without Message-ID doubled"
        lost[kind] -= missing
    for one, other in zip(here, there, strict=False):
        lost["bytes changed"] += not other.is_same
        lost["system flags"] += one.system != other.system
        lost["keywords"] += one.keywords != other.keywords
        lost["dates"] += one.date != other.date
