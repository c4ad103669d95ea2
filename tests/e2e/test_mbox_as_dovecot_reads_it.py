"""Odd mbox files, read by us and by a real Dovecot: the same messages, with the same bytes, flags, dates and UIDs."""

import imaplib
import os
import random
import re
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest

from moverq.endpoints.mbox.index import read_index, read_message
from moverq.model.change import Flag
from tests.support.dovecot import UID, Dovecot, shared_dovecot

pytestmark = pytest.mark.slow

FROM = b"From a@b Tue Nov 14 22:13:20 2023\n"
LINES = (
    FROM,
    FROM,
    b"From c@d  Wed Nov 15 01:02:03 2023 +0000\n",
    b"From me to you\n",
    b">From a@b Tue Nov 14 22:13:20 2023\n",
    b"From what I heard, Tue Nov 14 22:13:20 2023\n",
    b"\n",
    b"\n",
    b"Subject: x\n",
    b"Status: RO\n",
    b"X-Status: AF\n",
    b"X-Keywords: work\n",
    b"Content-Length: 40\n",
    b"text\n",
)
BITS = {"\\Seen": Flag.SEEN, "\\Answered": Flag.ANSWERED, "\\Flagged": Flag.FLAGGED, "\\Deleted": Flag.DELETED}


def form(content: bytes) -> bytes:
    """Of a header that no empty line ends Dovecot says the last line end, or not."""
    return content if b"\r\n\r\n" in content or content.startswith(b"\r\n") else content.removesuffix(b"\r\n")


def by_dovecot(server: Dovecot, user: str) -> list[tuple[bytes, int, tuple[str, ...], int]]:
    """(bytes, flags, keywords, date in seconds) of each message, as its IMAP server has them."""
    client = server.login(user)
    try:
        client.select("INBOX")
        _, answer = client.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")
        found = []
        for part in answer:
            if not isinstance(part, tuple):
                continue
            said = re.search(rb"FLAGS \(([^)]*)\)", part[0])
            assert said is not None
            words = set(said[1].decode().split()) - {"\\Recent"}
            bits = sum(bit for word, bit in BITS.items() if word in words)
            date = imaplib.Internaldate2tuple(part[0])
            assert date is not None
            found.append((form(part[1]), int(bits), tuple(sorted(words - BITS.keys())), int(time.mktime(date))))
        client.close()
        return found
    finally:
        client.shutdown()


def by_us(path: Path) -> list[tuple[bytes, int, tuple[str, ...], int]]:
    name = os.fsencode(path)
    found = read_index(name)
    assert found.is_whole
    return [
        (form(read_message(name, entry, base) or b""), entry.flags, entry.keywords, entry.received_ms // 1000)
        for base, entry in found.entries.items()
    ]


@pytest.mark.parametrize("seed", range(12))
def test_we_read_what_dovecot_reads(seed: int) -> None:
    """Before it has touched the file, and after it has written its own fields."""
    chance = random.Random(seed)
    first = FROM + b"Subject: first\nX-IMAPbase: 77 0000000000 work\n\nx\n\n"
    data = first + FROM + b"Subject: y\n" + b"".join(chance.choice(LINES) for _ in range(60)) + b"\n"
    server = shared_dovecot("mbox")
    user = f"{uuid4().hex[:12]}@example.com"
    home = server.home(user)
    (home / "mail").mkdir(parents=True)
    (home / "inbox").write_bytes(data)
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(home)], check=True)
    ours = by_us(home / "inbox")
    assert ours == by_dovecot(server, user)
    assert (home / "inbox").read_bytes() != data
    assert by_us(home / "inbox") == by_dovecot(server, user)
    uids = [entry.uid for entry in read_index(os.fsencode(home / "inbox")).entries.values()]
    assert uids == list(range(1, len(ours) + 1))
