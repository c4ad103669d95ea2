"""The bytes of IMAP (RFC 3501, RFC 9051), without a socket: responses out of a stream, and words into one.

A response is a line with literals in it. `Incoming` cuts the stream into responses as bytes arrive, and never looks
into a literal: a message is bytes that pass through. `tokens` makes nested lists of a response's words. Whoever asked
for a thousand responses of one form reads these where they lie (`skim`), and leaves the rest to be cut.

    b'* 4 FETCH (UID 9 BODY[] {3}\\r\\n' b'abc' b' FLAGS (\\\\Seen))\\r\\n'
      ─▶ Response([b'* 4 FETCH (UID 9 BODY[] ', b'abc', b' FLAGS (\\\\Seen))'])
      ─▶ [b'*', b'4', b'FETCH', [b'UID', b'9', b'BODY[]', Literal(b'abc'), b'FLAGS', [b'\\\\Seen']]]

What a server may do wrong and is read all the same: no text after a code, `+` without a space, trailing spaces, a
literal where a string is usual. Bounded by: `LINE_BYTES_MAX`, `LITERAL_BYTES_MAX`.
"""

import re
from calendar import timegm
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from time import gmtime
from typing import Any, Final

import attrs

LINE_BYTES_MAX: Final = 16 << 20
"""A SEARCH or VANISHED of a very large folder is one line; anything longer is no IMAP server."""
LITERAL_BYTES_MAX: Final = 2 << 30

SET_BYTES_MAX: Final = 7_000
"""Of the UIDs in one command: a server need not take lines of more than 8,000 bytes (RFC 2683, section 3.2.1.5)."""
NESTED_MAX: Final = 64
"""Lists in lists. What is asked for has three levels."""

_LITERAL_AT_END = re.compile(rb"\{(\d{1,19})\+?\}$")
# Nothing that has a choice in it is repeated possessively: before 3.11.5 Python matches that wrongly.
_TOKEN = re.compile(rb'[ \t]*(?:([()])|"([^"\\]*+(?:\\.[^"\\]*+)*)"|((?:[^\s()"\[]++|\[[^\[\]]*+\]|\[)+)|(.))')
_UNESCAPE = re.compile(rb"\\(.)")
_CODE = re.compile(rb"\[([^\s\]]+)(?: ([^\]]*))?\] ?")
_MONTHS: Final = {name: n for n, name in enumerate((b"jan feb mar apr may jun jul aug sep oct nov dec").split(), 1)}
_DATE = re.compile(rb"\s*(\d{1,2})-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d)(?: ([+-])(\d\d)(\d\d))?")


Usual = Callable[[bytearray, int, int], int]
"""Takes as many whole responses of the form it knows as lie in the bytes from one place to another; says where it
stopped."""


class WireError(Exception):
    """The other side does not speak IMAP, or not to the end."""


class Literal(bytes):
    """A string that came as a literal or between quotes: never a number, NIL or a list."""


@attrs.frozen(slots=True)
class Response:
    """One whole response: text, literal, text, literal, …, text."""

    parts: tuple[bytes, ...]

    @property
    def head(self) -> bytes:
        return self.parts[0]


ROOM_BYTES: Final = 512 << 10
"""What `Incoming` has while more comes than it has room for: a system call, and a step of the scheduler, for some
twenty messages."""
ROOM_BYTES_MIN: Final = 64 << 10
"""What it begins with: most connections are told little, and a worker has hundreds that wait."""


class Incoming:
    """Cuts a stream into responses. Put what came into its `room`, say how much (`came`), then take (`next`) until it
    has no whole one.

    One buffer, into which sockets write by themselves: what is not yet taken lies between `_at` and `_end`.
    """

    __slots__ = ("_at", "_buffer", "_end", "_literal_bytes", "_parts", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray(ROOM_BYTES_MIN)
        self._at = self._end = 0
        self._searched = 0
        self._parts: list[bytes] = []
        self._literal_bytes: int | None = None

    def __repr__(self) -> str:
        return f"<Incoming {self._end - self._at} bytes not yet taken>"

    def room(self) -> memoryview:
        """Where the next bytes go, `ROOM_BYTES_MIN` at least. Give it back (`release`) before anything is taken."""
        held = self._end - self._at
        was_full = self._end == len(self._buffer) < ROOM_BYTES
        if not held:
            if was_full or len(self._buffer) > ROOM_BYTES:  # more is to come, or something large has passed
                self._buffer = bytearray(ROOM_BYTES)
            self._at = self._end = self._searched = 0
        elif len(self._buffer) - self._end < ROOM_BYTES_MIN:
            self._buffer[:held] = self._buffer[self._at : self._end]
            self._searched = max(0, self._searched - self._at)
            self._at, self._end = 0, held
            if was_full:
                self._buffer += bytes(ROOM_BYTES - len(self._buffer))
            if len(self._buffer) - held < ROOM_BYTES_MIN:
                # Of a literal that is due, its rest; it may be here in whole, and more behind it.
                wanted = len(self._buffer) if self._literal_bytes is None else max(0, self._literal_bytes - held)
                self._buffer += bytes(min(len(self._buffer), wanted + ROOM_BYTES_MIN))
        return memoryview(self._buffer)[self._end :]

    def came(self, size: int) -> None:
        self._end += size

    def shrink(self) -> None:
        """As it began, if all was taken."""
        if self._at == self._end and len(self._buffer) > ROOM_BYTES_MIN:
            self._buffer = bytearray(ROOM_BYTES_MIN)
            self._at = self._end = self._searched = 0

    def feed(self, data: bytes | bytearray) -> None:
        """For what comes from elsewhere than a socket."""
        at = 0
        while at < len(data):
            with self.room() as room:
                size = min(len(room), len(data) - at)
                room[:size] = data[at : at + size]
            self.came(size)
            at += size

    @property
    def is_between_responses(self) -> bool:
        return not self._parts and self._literal_bytes is None and self._at == self._end

    def skim(self, usual: Usual) -> None:
        """The responses that `usual` takes are taken. Without effect in the middle of one."""
        if not self._parts and self._literal_bytes is None:
            self._at = usual(self._buffer, self._at, self._end)
            self._searched = max(self._searched, self._at)

    def next(self) -> Response | None:
        """The next whole response; None: more bytes are needed."""
        buffer = self._buffer
        while True:
            if self._literal_bytes is not None:
                end = self._at + self._literal_bytes
                if self._end < end:
                    return None
                with memoryview(buffer) as view:
                    self._parts.append(bytes(view[self._at : end]))
                self._at = self._searched = end
                self._literal_bytes = None
            end = buffer.find(b"\n", max(self._at, self._searched), self._end)
            if end < 0:
                self._searched = self._end
                if self._end - self._at > LINE_BYTES_MAX:
                    raise WireError(f"a line of more than {LINE_BYTES_MAX} bytes")
                return None
            line = bytes(buffer[self._at : end - 1 if end > self._at and buffer[end - 1] == 13 else end])
            self._at = self._searched = end + 1
            literal = _LITERAL_AT_END.search(line) if line.endswith(b"}") else None
            if literal is None:
                self._parts.append(line)
                response = Response(tuple(self._parts))
                self._parts = []
                return response
            self._literal_bytes = int(literal[1])
            if self._literal_bytes > LITERAL_BYTES_MAX:
                raise WireError(f"a literal of {self._literal_bytes} bytes")
            self._parts.append(line[: literal.start()])


def tokens(parts: Sequence[bytes]) -> list[Any]:
    """The words of a response, lists nested. Raises `WireError` where the brackets do not match, or nest too deep."""
    stack: list[list[Any]] = [[]]
    for number, part in enumerate(parts):
        if number % 2:
            stack[-1].append(Literal(part))
            continue
        for match in _TOKEN.finditer(part):
            bracket, quoted, atom, stray = match.groups()
            if atom is not None:
                stack[-1].append(atom)
            elif bracket == b"(":
                inner: list[Any] = []
                stack[-1].append(inner)
                stack.append(inner)
                if len(stack) > NESTED_MAX:
                    raise WireError(f"more than {NESTED_MAX} lists in each other")
            elif bracket is not None:
                if len(stack) == 1:
                    raise WireError(f"an unexpected ) in {part[:80]!r}")
                stack.pop()
            elif quoted is not None:
                stack[-1].append(Literal(_UNESCAPE.sub(rb"\1", quoted) if b"\\" in quoted else quoted))
            elif stray.strip():
                raise WireError(f"{stray!r} is out of place in {part[:80]!r}")
    if len(stack) != 1:
        raise WireError(f"a ( is not closed in {parts[0][:80]!r}")
    return stack[0]


@attrs.frozen(slots=True)
class Said:
    """What OK, NO, BAD, BYE or PREAUTH said: the code in brackets, if there was one, and the text."""

    status: bytes
    code: bytes
    arguments: bytes
    text: str


def said(line: bytes) -> Said:
    """`OK [UIDVALIDITY 3] done` taken apart; a missing text or code is an empty one."""
    status, _, rest = line.strip().partition(b" ")
    code = _CODE.match(rest)
    if code is None:
        return Said(status.upper(), b"", b"", rest.decode("utf-8", "replace"))
    return Said(status.upper(), code[1].upper(), code[2] or b"", rest[code.end() :].decode("utf-8", "replace"))


def pairs(words: object) -> dict[bytes, Any]:
    """`[b'UID', b'9', b'FLAGS', [...]]` as a dictionary; names in capitals. Raises `WireError` where it is no list of
    that kind."""
    if not isinstance(words, list) or any(isinstance(name, list) for name in words[:-1:2]):
        raise WireError(f"{words!r:.80} is no list of names and values")
    return {bytes(words[n]).upper(): words[n + 1] for n in range(0, len(words) - 1, 2)}


# ---- numbers, sets, dates


def number(word: object) -> int:
    """One that a row can hold: below 2 ** 63. Raises `WireError` where it is none."""
    digits = word.strip() if isinstance(word, bytes) else b""
    if not digits.isdigit() or len(digits) > 19 or (found := int(digits)) >= 1 << 63:
        raise WireError(f"{word!r:.80} is no number")
    return found


def uid_set(uids: Iterable[int]) -> bytes:
    """`1:3,7` of 1 2 3 7. Descending sets are refused by some servers, so the uids are sorted."""
    runs: list[list[int]] = []
    for uid in sorted(uids):
        if runs and uid <= runs[-1][1] + 1:
            runs[-1][1] = max(uid, runs[-1][1])
        else:
            runs.append([uid, uid])
    return b",".join(b"%d" % a if a == b else b"%d:%d" % (a, b) for a, b in runs)


def uid_sets(uids: Iterable[int], *, bytes_max: int = SET_BYTES_MAX) -> Iterator[bytes]:
    """The same in as many sets as it takes, in order, for a command each."""
    text, at = uid_set(uids), 0
    while len(text) - at > bytes_max:
        end = text.rindex(b",", at, at + bytes_max + 1)  # a run is shorter than any bound
        yield text[at:end]
        at = end + 1
    if text:
        yield text[at:]


def runs_in(text: bytes, *, most: int = 1 << 20) -> list[tuple[int, int]]:
    """The first and last UID of each run of a set, in the order it names them. A run may name UIDs by the million
    that there never were (`VANISHED (EARLIER) 1:9000000`). Raises `WireError` where it is none, or has more runs."""
    found: list[tuple[int, int]] = []
    for run in text.split(b",", most):
        first, _, last = run.partition(b":")
        low, high = number(first), number(last or first)
        found.append((low, high) if low <= high else (high, low))
    return found


def uids_in(text: bytes, *, most: int = 1 << 20) -> list[int]:
    """The UIDs of a set in the order it names them. Raises `WireError` where it is none, or names more than `most`."""
    found: list[int] = []
    for low, high in runs_in(text):
        if high - low >= most - len(found):
            raise WireError(f"a set of more than {most} UIDs")
        found += range(low, high + 1)
    return found


def date_ms(text: bytes) -> int:
    """An INTERNALDATE, as milliseconds since 1970 UTC. A zone that is none counts as UTC; a date that is none as 0."""
    match = _DATE.match(text)
    month = _MONTHS.get(match[2].lower()) if match else None
    if match is None or month is None or match[3] == b"0000":
        return 0
    day, year, hour, minute, second = int(match[1]), int(match[3]), int(match[4]), int(match[5]), int(match[6])
    seconds = timegm((year, month, day, hour, minute, second))
    if match[7]:
        east = int(match[8]) * 3600 + int(match[9]) * 60
        seconds += east if match[7] == b"-" else -east
    return seconds * 1000


@lru_cache(8192)
def midnight_ms(day: bytes, zone: bytes) -> int:
    """When `01-Jan-2024` began in `+0100`. Twenty years have fewer days than this remembers."""
    return date_ms(day + b" 00:00:00 " + zone)


def date_words(ms: int) -> bytes:
    """The INTERNALDATE of a moment, in UTC, to the second: more a server does not keep."""
    day, second = divmod(ms // 1000, 86_400)
    return b'"%s %02d:%02d:%02d +0000"' % (_day_words(day), second // 3600, second // 60 % 60, second % 60)


@lru_cache(8192)
def _day_words(day: int) -> bytes:
    at = gmtime(day * 86_400)
    month = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()[at.tm_mon - 1]
    return b"%2d-%s-%04d" % (at.tm_mday, month, at.tm_year)


# ---- strings and mailbox names


def is_quotable(text: bytes) -> bool:
    return len(text) <= 1000 and not re.search(rb"[\r\n\x00\x80-\xff]", text)


def quoted(text: bytes) -> bytes:
    """The text between quotes. Raises `WireError` for what only a literal can say."""
    if not is_quotable(text):
        raise WireError(f"{text!r} cannot stand between quotes")
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
