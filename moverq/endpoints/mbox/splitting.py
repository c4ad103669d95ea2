"""Where the messages of an mbox begin and end, by Dovecot's rules; one message in memory at a time.

A message begins at a line that is a separator (`message.SEPARATOR`), wherever it stands but behind another one, for no
message is nothing at all. Content-Length is believed
only where such a line, or the end of the file, stands where it says: then what looks like a separator before is text.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from moverq.endpoints.mbox.message import SEPARATOR, content_length, header_length
from moverq.mailfiles.item import MESSAGE_BYTES_MAX

ReadAt = Callable[[int, int], bytes]
"""(offset, size): that many bytes, fewer at the end of the file alone."""
SCAN_BYTES: Final = 1 << 20
LINE_BYTES_MAX: Final = 4096
"""Of a separator."""


class Piece(NamedTuple):
    """One message: [begin, end) in the file."""

    begin: int
    end: int
    separator: bytes
    """With its line end; empty for what stands before the first one."""
    text: bytes
    """Empty where it is too large to be one message."""

    @property
    def is_too_large(self) -> bool:
        return self.end - self.begin > MESSAGE_BYTES_MAX


class _Window:
    """A stretch of the file in memory."""

    def __init__(self, read_at: ReadAt, origin: int) -> None:
        self.read_at = read_at
        self.origin = origin
        self._data = bytearray()

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._data[part.start - self.origin : part.stop - self.origin])

    @property
    def end(self) -> int:
        return self.origin + len(self._data)

    def more(self) -> bool:
        """False: that was the end of the file."""
        piece = self.read_at(self.end, SCAN_BYTES)
        self._data += piece
        return bool(piece)

    def find(self, needle: bytes, start: int) -> int:
        """In what is in memory; -1: it is not there."""
        found = self._data.find(needle, start - self.origin)
        return found + self.origin if found >= 0 else -1

    def drop(self, before: int) -> None:
        del self._data[: before - self.origin]
        self.origin = before


def split(read_at: ReadAt, begin: int = 0) -> Iterator[Piece]:
    """Every message from `begin` on, where one begins."""
    window = _Window(read_at, begin)
    at = begin
    while True:
        while window.end - at < LINE_BYTES_MAX and window.more():
            pass
        if window.end == at:
            return
        head = window[at : min(window.end, at + LINE_BYTES_MAX)]
        head = head[: separator_bytes(head)]
        separator = head if head.startswith(b"From ") and (at == 0 or SEPARATOR.match(head)) else b""
        text_begin = at + len(separator)
        end, is_whole = _end(window, at, text_begin)
        yield Piece(at, end, separator, window[text_begin:end] if is_whole else b"")
        at = end
        if at - window.origin > SCAN_BYTES:
            window.drop(at)


def _end(window: _Window, begin: int, text_begin: int) -> tuple[int, bool]:
    """Where the next message begins, or the file ends; and whether all up to there is in memory."""
    searched, is_whole = text_begin, True
    while True:
        found = window.find(b"\nFrom ", searched)
        if found < 0:
            searched = max(searched, window.end - len(b"\nFrom ") + 1)
            if window.end - begin > MESSAGE_BYTES_MAX:
                is_whole = False
                window.drop(searched)
            if not window.more():
                return window.end, is_whole
            continue
        while window.end - found < LINE_BYTES_MAX and window.more():
            pass
        at = found + 1
        if SEPARATOR.match(window[at : min(window.end, at + LINE_BYTES_MAX)]):
            said = _said_end(window, text_begin, found + 1) if is_whole else None
            if said is None:
                return at, is_whole
            at = said
            while window.end < at and window.more():
                pass
            if at >= window.end:
                return window.end, True
            return at, True
        searched = at


def _said_end(window: _Window, text_begin: int, first: int) -> int | None:
    """Where the message ends by its Content-Length, if that is behind `first` and another begins there, or none."""
    text = window[text_begin:first]
    length = header_length(text)
    said = content_length(text[:length])
    if said is None or not said <= MESSAGE_BYTES_MAX:
        return None
    # As Dovecot counts: a header that nothing ends but the separator's own line end has its body there.
    end = first - (2 if text.endswith(b"\r\n") else 1)
    body = min(end, text_begin + length + (2 if text[length : length + 1] == b"\r" else 1))
    if body + said <= end:
        return None
    there = window.read_at(body + said, LINE_BYTES_MAX)
    for line_end in (b"\n", b"\r\n"):
        if there.startswith(line_end) and (there == line_end or SEPARATOR.match(there[len(line_end) :])):
            return body + said + len(line_end)
    return None


def separator_bytes(raw: bytes) -> int:
    """How long the separator is that these bytes of a file begin with, where they do."""
    return raw.find(b"\n", 0, LINE_BYTES_MAX) + 1 or min(len(raw), LINE_BYTES_MAX)
