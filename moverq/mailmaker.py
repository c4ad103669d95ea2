"""Mail from a seed: the same seed, the same mail, anywhere, for the demo, tests and benches.

It looks like mail where moving mail is sensitive to it: log-normal sizes (most small, a few large), headers, nested
and non-ASCII folders, flags, keywords, dates over years, and now and then what breaks careless programs: a NUL, a
bare CR, a missing Message-ID, the same message twice. Bodies are slices of one pool, so that making mail costs a
fraction of moving it.
"""

import math
import random
from collections.abc import Iterator
from email.utils import formatdate

from moverq.mailfiles.item import MailItem
from moverq.model.change import Flag

MEDIAN_BYTES = 12 * 1024
SIGMA = 1.2
"""Spread of the logarithm of sizes: one message in a thousand is some forty times the median."""
BYTES_MAX = 25 << 20
LINE_BYTES = 76
POOL_LINES = 4096
ODD_ONE_IN = 97
FIRST_MS = 1_262_304_000_000
"""1 January 2010: the first message."""
STEP_MS_MAX = 3_600_000

FOLDERS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("INBOX",), 50),
    (("Sent",), 15),
    (("Archive", "2011", "Spring"), 8),
    (("Archive", "2012"), 7),
    (("Entwürfe",), 2),
    (("Проекты", "Берлин"), 5),
    (("写真",), 3),
    (("INBOX", "Lists"), 6),
    (("a.b & c/d",), 2),
    (("Deleted Items",), 2),
)
"""Each with its share of the mail."""
KEYWORDS: tuple[tuple[str, ...], ...] = ((), (), (), (), ("$Label1",), ("$Forwarded", "work"), ("NonJunk",))
FLAGS: tuple[int, ...] = (0, 0, Flag.SEEN, Flag.SEEN, Flag.SEEN, Flag.SEEN | Flag.ANSWERED, Flag.FLAGGED, Flag.DRAFT)
NAMES = ("anna", "bert", "carla", "dimitri", "eve", "farid", "gao", "hélène")
TEXT = (
    "the quarter report meeting on Monday please find attached minutes of our call regards invoice budget plan review "
    "server maintenance window tonight holiday list lunch contract draft version final corrections thanks for your help"
)
WORDS = tuple(TEXT.split())


def make_mail(seed: int, count: int, median_bytes: int = MEDIAN_BYTES) -> Iterator[MailItem]:
    """`count` messages, in the order of their dates. Sizes are log-normal around `median_bytes`, headers included.

    Bounded by: `BYTES_MAX` a message.
    """
    # Not for secrets: the same mail on every machine is the point.
    chance = random.Random(seed)
    pool = _pool(chance)
    folders = [folder for folder, share in FOLDERS for _ in range(share)]
    received_ms = FIRST_MS
    center = math.log(max(median_bytes, 1))
    previous: MailItem | None = None
    draw = chance.random  # one float is several times as cheap as randrange
    for number in range(count):
        received_ms += 1000 + int(draw() * STEP_MS_MAX)
        odd = int(draw() * ODD_ONE_IN * 4)
        if odd == 0 and previous is not None:
            # A duplicate to the byte, in another folder or the same: a move must keep both.
            yield MailItem(
                folders[int(draw() * len(folders))],
                previous.content,
                previous.received_ms,
                previous.flags,
                previous.keywords,
                f"seed {seed}#{number}",
            )
            continue
        header = _header(seed, number, received_ms, draw(), has_id=odd != 1)
        size = min(int(math.exp(center + SIGMA * _normal(draw(), draw()))), BYTES_MAX) - len(header)
        body = _body(pool, size, int(draw() * len(pool)))
        if odd == 2:
            body = b"a NUL \0 in the text\r\n" + body
        elif odd == 3:
            body = b"a bare \r in the text\r\n" + body
        previous = MailItem(
            folders[int(draw() * len(folders))],
            header + body,
            received_ms,
            int(FLAGS[int(draw() * len(FLAGS))]),
            KEYWORDS[int(draw() * len(KEYWORDS))],
            f"seed {seed}#{number}",
        )
        yield previous


def _header(seed: int, number: int, received_ms: int, chance: float, *, has_id: bool) -> bytes:
    pick = int(chance * 1_000_000)
    sender, recipient = NAMES[pick % 8].encode(), NAMES[pick // 8 % 8].encode()
    date = formatdate(received_ms // 1000).encode()
    message_id = b"Message-ID: <%d.%d@mail.example.org>\r\n" % (number, seed) if has_id else b""
    words = " ".join(WORDS[pick // step % len(WORDS)] for step in (1, 64, 999)).encode()
    return (
        b"Received: from mail.example.net (mail.example.net [192.0.2.%d])\r\n"
        b"\tby mx.example.org (Postfix) with ESMTPS id %08X\r\n"
        b"\tfor <%b@example.org>; %b\r\n"
        b"From: %b <%b@example.net>\r\n"
        b"To: %b@example.org\r\n"
        b"Subject: %b\r\n"
        b"Date: %b\r\n"
        b"%bMIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: 8bit\r\n"
        b"\r\n"
    ) % (pick % 254 + 1, number, recipient, date, sender, sender, recipient, words, date, message_id)


def _body(pool: bytes, size: int, start: int) -> bytes:
    """About `size` bytes of text from the pool, in whole lines but for the last, ending in CRLF."""
    start -= start % LINE_BYTES
    size = max(size, 2) - 2
    text = pool[start : start + size]
    if len(text) < size:  # larger than what is left of the pool: one in a few hundred
        text = (text + pool * (size // len(pool) + 1))[:size]
    # Cut between CR and LF, the line would end in a bare CR.
    return text.removesuffix(b"\r") + b"\r\n"


def _pool(chance: random.Random) -> bytes:
    """Lines of words, each of LINE_BYTES with its CRLF, so that a slice begins where a line does."""
    lines = []
    for _ in range(POOL_LINES):
        text = " ".join(chance.choices(WORDS, k=20))[: LINE_BYTES - 2]
        lines.append(text.ljust(LINE_BYTES - 2, ".") + "\r\n")
    return "".join(lines).encode()


def _normal(first: float, second: float) -> float:
    """A standard normal number from two even ones (Box and Muller)."""
    return math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(2.0 * math.pi * second)
