"""Line ends, `From ` lines and dates: the little that is read of a message, in a bounded look at its head."""

import re
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz

from moverq.model.change import Flag

HEAD_BYTES_MAX = 256 << 10
"""How far into a message dates and flags are looked for; headers of 200 kB have been seen."""

FROM_LINE = re.compile(rb"From (?![ \t]*:)[^\n]*")
"""A `From ` line, and not an old-fashioned `From : …` header."""
FROM_DATE = re.compile(
    rb"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +(\d{1,2}) +(\d{1,2}):(\d{2})(?::(\d{2}))?"
    rb"(?: +([+-]\d{4}|[A-Za-z]{1,5}))* +(\d{4})(?: +([+-]\d{4}))?"
)
DATE_S_MAX = 253402300799
"""The end of the year 9999. The numbers in a header, zone and seconds too, may be of any size."""
MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
RECEIVED = re.compile(rb"^Received:([^\n]*\n(?:[ \t][^\n]*\n)*)", re.IGNORECASE | re.MULTILINE)
DATE = re.compile(rb"^Date:([^\n]*\n(?:[ \t][^\n]*\n)*)", re.IGNORECASE | re.MULTILINE)
STATUS = re.compile(rb"^(?:X-)?Status:[ \t]*+([A-Z]*+)[ \t]*+\r?$", re.IGNORECASE | re.MULTILINE)
"""Possessive (`*+`): a line of a hundred thousand blanks would otherwise be tried in every way to divide it."""
HEADER_END = re.compile(rb"\n\r?\n")
FIELD = re.compile(rb"^([!-9;-~]{1,76})[ \t]*:", re.MULTILINE)
KNOWN_FIELDS = frozenset(
    b"from to cc bcc subject date received message-id return-path mime-version content-type delivered-to sender "
    b"reply-to in-reply-to references resent-from x-mailer x-original-to newsgroups list-id apparently-to".split()
)
STATUS_FLAGS = {
    ord("R"): Flag.SEEN,
    ord("A"): Flag.ANSWERED,
    ord("F"): Flag.FLAGGED,
    ord("D"): Flag.DELETED,
    ord("T"): Flag.DRAFT,
}


def with_crlf(content: bytes) -> bytes:
    """The documented rule: bare LF becomes CRLF where there is no CRLF at all; otherwise nothing changes."""
    return content if b"\r\n" in content else content.replace(b"\n", b"\r\n")


def split_from_line(content: bytes) -> tuple[bytes, bytes]:
    """(`From ` line without its end or b"", the message)."""
    match = FROM_LINE.match(content)
    if match is None or match.end() == len(content):
        return b"", content
    return match.group(), content[match.end() + 1 :]


def from_line_ms(line: bytes) -> int | None:
    """The date of a `From ` line, UTC where it names no zone; None where there is none."""
    match = FROM_DATE.search(line)
    if match is None:
        return None
    month, day, hour, minute, second, before, year, after = match.groups()
    try:
        date = datetime(
            int(year), MONTHS.index(month) + 1, int(day), int(hour), int(minute), min(int(second or 0), 59), tzinfo=UTC
        )
    except ValueError:
        return None
    zone = after or (before if before is not None and before[:1] in b"+-" else b"+0000")
    minutes = int(zone[1:3]) * 60 + int(zone[3:5])
    return int(date.timestamp()) * 1000 - (minutes if zone[:1] == b"+" else -minutes) * 60_000


def header_of(content: bytes) -> bytes:
    """The header, or its first part where it is longer than the bound."""
    end = HEADER_END.search(content, 0, HEAD_BYTES_MAX)
    return content[: end.start() + 1 if end else HEAD_BYTES_MAX]


def header_ms(content: bytes) -> int | None:
    """When the message came, by its topmost Received line, or was written, by Date; None where neither says."""
    header = header_of(content)
    if (received := RECEIVED.search(header)) and (found := _date_ms(received.group(1).rpartition(b";")[2])) is not None:
        return found
    return _date_ms(date.group(1)) if (date := DATE.search(header)) else None


def status_flags(content: bytes) -> int:
    """Flags as mbox programs keep them, in Status and X-Status."""
    flags = Flag(0)
    for match in STATUS.finditer(header_of(content)):
        for letter in match.group(1).upper():
            flags |= STATUS_FLAGS.get(letter, Flag(0))
    return int(flags)


def looks_like_mail(head: bytes) -> bool:
    """Does this begin like a message: a field first, and a name mail uses among the fields?"""
    _, head = split_from_line(head)
    if head.startswith(b">From "):
        head = head[head.find(b"\n") + 1 :]
    if FIELD.match(head) is None:
        return False
    return any(name.lower() in KNOWN_FIELDS for name in FIELD.findall(header_of(head)))


def _date_ms(raw: bytes) -> int | None:
    try:
        parsed = parsedate_tz(" ".join(raw.decode("latin-1").split()))
        date_s = -1 if parsed is None else mktime_tz(parsed)
        return date_s * 1000 if 0 <= date_s <= DATE_S_MAX else None
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
