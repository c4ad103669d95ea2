"""One message of an mbox: what mail programs keep in its header, and the message without that.

    From ada@example.org Tue Nov 14 22:13:20 2023    the separator: sender, date
    Subject: hello
    X-IMAPbase: 1700000000 0000000017 work later     of the folder, in its first message: UIDVALIDITY, last UID, words
    X-UID: 17
    Status: RO                                       R seen, O not new
    X-Status: AF                                     A answered, F flagged, T draft, D deleted
    X-Keywords: work                                 those that the folder has

    text
                                                     the last line end belongs to the format

The programs' fields are no part of the message: they come and go, and blanks behind them are room for the next ones, so
that nothing behind them has to move. A message that a sender gave such a field is one without it here, as Dovecot has
it too. Nothing is unquoted, as Dovecot does not either: who reads `>From ` now, read it before.
"""

import re
import time
from calendar import timegm
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from moverq.endpoints.mirrored import normal_form
from moverq.endpoints.mirrored.normal_form import as_sent, content_hash, is_clean
from moverq.mailfiles.text import DATE_S_MAX, MONTHS
from moverq.model.change import Flag

_DATED: Final = (
    rb'From (?:"[^"\r\n]*"[^ \r\n]*|[^ \r\n]*) +[^\r\n]{4}(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) '
    rb"([ \d]\d) (\d\d):(\d\d)(?::(\d\d))? +(?:([^ \r\n]+) )?(\d{4})(?: ([+-]\d{4}))?(?![^ \r\n])"
)
SEPARATOR: Final = re.compile(_DATED, re.IGNORECASE)
"""A line that begins a message, by Dovecot's rule: the date stands where it must."""
_LOOKALIKE: Final = re.compile(b"^(" + _DATED + b")", re.IGNORECASE | re.MULTILINE)
_QUOTED: Final = re.compile(b"^>(" + _DATED + b")", re.IGNORECASE | re.MULTILINE)
_OWN: Final = re.compile(
    rb"^(status|x-status|x-keywords|x-uid|x-imapbase|x-imap|content-length)[ \t]*:"
    rb"([^\n]*+(?:\n[ \t][^\n]*+)*)(?:\n|\Z)",
    re.IGNORECASE | re.MULTILINE,
)
_HEADER_END: Final = re.compile(rb"^\r?\n", re.MULTILINE)
_NUMBER: Final = re.compile(rb"\d{1,10}")
_STATUS: Final = {ord("R"): Flag.SEEN}
_X_STATUS: Final = {
    ord("A"): Flag.ANSWERED,
    ord("F"): Flag.FLAGGED,
    ord("T"): Flag.DRAFT,
    ord("D"): Flag.DELETED,
}
UID_MAX: Final = (1 << 32) - 1
KEYWORDS_ROOM: Final = 72
"""Blanks behind the keywords of a message, as many as Dovecot leaves: room for its X-UID and for later keywords."""
BASE_ROOM: Final = 400
"""Blanks behind the folder's keywords."""
TOKEN: Final = re.compile(rb"From (moverq-[0-9a-f]+-[0-9a-f]+) ")


class Base(NamedTuple):
    """What the first message says of the folder."""

    validity: int
    """0: nobody has given UIDs here."""
    last_uid: int
    keywords: tuple[str, ...]


NO_BASE: Final = Base(0, 0, ())


class Said(NamedTuple):
    """What the programs' fields say of a message."""

    flags: int
    keywords: tuple[str, ...]
    uid: int
    """0: none."""
    base: Base | None
    is_internal: bool
    """It is no message, but what UW's programs keep in the first one's place."""


def header_length(text: bytes) -> int:
    """The header with its last line end, without the empty line after it."""
    end = _HEADER_END.search(text)
    return end.start() if end is not None else len(text)


def content_length(header: bytes) -> int | None:
    """What the header says that the body has; not to be believed."""
    for match in _OWN.finditer(header):
        if match[1].lower() == b"content-length":
            value = match[2].strip()
            return int(value) if value.isdigit() and len(value) < 16 else None
    return None


def taken_apart(text: bytes) -> tuple[Said, bytes]:
    """What is said of a message, and the message as it stands in the file, without the fields that say it."""
    length = header_length(text)
    header = text[:length]
    flags = uid = 0
    keywords: dict[str, str] = {}
    base: Base | None = None
    is_internal = False
    found = False
    for match in _OWN.finditer(header):
        found = True
        name, value = match[1].lower(), match[2].strip()
        if name == b"status":
            flags |= _bits(value, _STATUS)
        elif name == b"x-status":
            flags |= _bits(value, _X_STATUS)
        elif name == b"x-keywords":
            for word in value.decode(errors="backslashreplace").split():
                keywords.setdefault(word.lower(), word)
        elif name == b"x-uid":
            uid = _number(value)
        elif name in (b"x-imapbase", b"x-imap"):
            base = _base(value)
            is_internal |= name == b"x-imap"
    bare = _OWN.sub(b"", header) + text[length:] if found else text
    return Said(flags, tuple(sorted(keywords.values())), uid, base, is_internal), bare


def _bits(value: bytes, letters: dict[int, Flag]) -> int:
    bits = 0
    for letter in value.upper():
        bits |= int(letters.get(letter, 0))
    return bits


def _number(word: bytes) -> int:
    number = int(word) if _NUMBER.fullmatch(word) else 0
    return number if number <= UID_MAX else 0


def _base(value: bytes) -> Base:
    words = value.split()
    validity = _number(words[0]) if words else 0
    last = _number(words[1]) if len(words) > 1 else 0
    return Base(validity, last, tuple(word.decode(errors="backslashreplace") for word in words[2:]))


def separator_ms(separator: bytes) -> int | None:
    """The date of a separator, in this machine's zone where it names none; None where there is none."""
    match = SEPARATOR.match(separator)
    if match is None:
        return None
    month, day, hour, minute, second, word, year, after = match.groups()
    numbers = (int(year), MONTHS.index(month.title()) + 1, int(day) or 1, int(hour), int(minute), int(second or 0))
    zone = after or (word if word is not None and re.fullmatch(rb"[+-]\d{4}", word) else None)
    try:
        datetime(*numbers[:5], min(numbers[5], 59), tzinfo=UTC)
        if zone is None and (word is None or word.upper() not in (b"UTC", b"GMT")):
            seconds = int(time.mktime((*numbers, 0, 1, -1)))
        else:
            seconds = timegm((*numbers, 0, 1, 0))
    except (ValueError, OverflowError):
        return None
    minutes = int(zone[1:3]) * 60 + int(zone[3:5]) if zone else 0
    return (seconds - (minutes if zone and zone[:1] == b"+" else -minutes) * 60) * 1000


# ---- as mail, and as it stands in a file


def as_mail(bare: bytes) -> bytes:
    """The message: with CRLF at the ends of its lines, without the line end that belongs to the format."""
    for end in (b"\r\n", b"\n"):
        if bare.endswith(end):
            return as_sent(bare[: -len(end)])
    return as_sent(bare)


def as_stored(content: bytes) -> bytes:
    """The text of a message that came, without any of the programs' fields: with LF at the ends of its lines, as every
    mbox has them, and no line that looks like a separator."""
    _, bare = taken_apart(content.replace(b"\r\n", b"\n"))
    text = _LOOKALIKE.sub(rb">\1", bare)
    return text + (b"\n" if text.endswith(b"\n") or not text else b"\n\n")


def separator_for(token: bytes, received_ms: int) -> bytes:
    """In UTC, and it says so: a date of a zone that changes its clocks could be two."""
    seconds = max(0, min(received_ms // 1000, DATE_S_MAX))
    return b"From %s %s +0000\n" % (token, datetime.fromtimestamp(seconds, UTC).ctime().encode())


def with_said(
    text: bytes, *, flags: int, keywords: Iterable[str], uid: int = 0, base: Base | None = None, length: int = 0
) -> bytes:
    """The message with these in its header, and none other of the programs' fields, but for a Content-Length where one
    is needed to tell the body's end. `length`: so long, if it can be."""
    _, bare = taken_apart(text)
    letters = bytes(letter for letter, flag in _X_STATUS.items() if flags & flag)
    words = " ".join(keywords).encode()
    base_line = b""
    if base is not None:
        listed = " ".join(base.keywords).encode()
        base_line = b"X-IMAPbase: %d %010d %s" % (base.validity, base.last_uid, listed)
    uid_line = b"X-UID: %d\n" % uid if uid else b""
    rest = b"Status: %s\nX-Status: %s\n" % (b"RO" if flags & Flag.SEEN else b"O", letters)
    at = header_length(bare)
    if at < len(bare) and _LOOKALIKE.search(bare, at):
        body = bare[at:].removeprefix(b"\r").removeprefix(b"\n")
        rest += b"Content-Length: %d\n" % len(body.removesuffix(b"\n").removesuffix(b"\r"))
    fixed = len(bare) + len(base_line) + len(uid_line) + len(rest) + len(b"X-Keywords: \n") + len(words) + bool(base)
    head = bare[:at]
    if head and not head.endswith(b"\n"):
        head += b"\n"
        fixed += 1
    room = KEYWORDS_ROOM + (BASE_ROOM if base else 0)
    if length >= fixed:
        room = length - fixed
    base_room = max(0, room - KEYWORDS_ROOM) if base else 0
    if base:
        base_line += b" " * base_room + b"\n"
    keywords_line = b"X-Keywords: " + words + b" " * (room - base_room) + b"\n"
    return head + base_line + uid_line + rest + keywords_line + bare[at:]


# ---- the normal form


def normal(content: bytes) -> bytes:
    """One form for all that an mbox may give back of a message (`normal_form`): without the programs' fields, the
    quotes and the line ends at the end."""
    # The fields first, as in what is stored: without its CR a line may be a continuation of one.
    _, bare = taken_apart(content.replace(b"\r\n", b"\n"))
    return _QUOTED.sub(rb"\1", normal_form.normal(bare)).rstrip(b"\r\n")


def normal_hash(content: bytes) -> bytes | None:
    """None for what comes back byte by byte."""
    is_its_own = (
        content.endswith(b"\r\n")
        and is_clean(content)
        and _OWN.search(content[: header_length(content)]) is None
        and _LOOKALIKE.search(content) is None
    )
    return None if is_its_own else content_hash(normal(content))


def token_of(separator: bytes) -> bytes:
    """The name that a message of ours has on its separator; b"" on that of any other."""
    match = TOKEN.match(separator)
    return match[1] if match is not None else b""


def listed(keywords: Sequence[str], base: Base) -> tuple[str, ...]:
    """Those of a message's keywords that its folder has; any other came with the mail."""
    if not keywords:
        return ()
    known = {word.lower() for word in base.keywords}
    return tuple(word for word in keywords if word.lower() in known)
