"""mbox: many messages in one file, a `From ` line before each.

    From MAILER-DAEMON Tue Nov 14 22:13:20 2023      separator: at the start, or after an empty line
    <header, empty line, body>                       in the body `From ` is quoted: `>From `, `>>From `  (mboxrd)
                                                     an empty line that belongs to the format

There is no one mbox format. A separator here is a `From ` line with a date, after an empty line or before a header
line (Netscape wrote none of the former); where a file begins with one without a date, such lines count as well if a
header follows. Content-Length is not believed: it is wrong too often, and a wrong split loses nothing while a wrong
length does. Flags are read from Status and X-Status, which stay in the message.

The writer ends its own lines in CRLF, so that the file has one and the bytes of messages are taken as they are; a
message without a last line end gains one, for the format has no other way to say where it stops. mbox holds neither
keywords nor, here, flags: use Maildir or .eml for these.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import BinaryIO

from moverq.mailfiles.files import broken, make_target, open_file, sync_tree, write_file
from moverq.mailfiles.item import MESSAGE_BYTES_MAX, MailItem, NotMail, canonical_folder
from moverq.mailfiles.names import decode_name, safe_name
from moverq.mailfiles.text import FIELD, FROM_DATE, FROM_LINE, from_line_ms, header_ms, header_of, status_flags

FOLDERS_FILE = "folders.jsonl"
OPEN_FILES_MAX = 64
SCAN_BYTES = 1 << 20
QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
INTERNAL = (
    re.compile(rb"^X-IMAP:[ \t]*\d", re.IGNORECASE | re.MULTILINE),
    re.compile(rb"^Subject:.*FOLDER INTERNAL DATA", re.IGNORECASE | re.MULTILINE),
)
"""Of an mbox's first message: UW's programs, and Alpine, keep it there and show it to nobody; nor does Dovecot."""
TO_QUOTE = re.compile(rb"^(>*From )", re.MULTILINE)


def is_mbox(head: bytes) -> bool:
    return FROM_LINE.match(head) is not None


def folder_name(file_name: str) -> str:
    """A folder's name from its mbox file's."""
    stem, dot, ending = file_name.rpartition(".")
    return decode_name(stem if dot and stem and ending.lower() in ("mbox", "mbx") else file_name)


def read_mbox(path: Path, folder: tuple[str, ...], *, root: Path) -> Iterator[MailItem | NotMail]:
    """The messages of one mbox file. `root`: see `open_file`."""
    try:
        opened = open_file(path, root=root, buffering=SCAN_BYTES)
        if isinstance(opened, NotMail):
            yield opened
            return
        with opened as file:
            before = os.fstat(file.fileno())
            exact = _has_crlf(file)
            file.seek(0)
            yield from _messages(file, path, folder, before.st_mtime_ns // 1_000_000, exact=exact)
        after = os.stat(path)
        if any(getattr(before, name) != getattr(after, name) for name in ("st_ino", "st_size", "st_mtime_ns")):
            # No lock is taken: an import may take an hour, and mail is delivered meanwhile.
            why = "it was written to while it was read: messages may be missing, or cut short"
            yield NotMail(str(path), why, may_be_mail=True)
    except OSError as error:
        yield NotMail(str(path), f"cannot be read to its end: {error.strerror}", may_be_mail=True)


def _messages(
    file: BinaryIO, path: Path, folder: tuple[str, ...], mtime_ms: int, *, exact: bool
) -> Iterator[MailItem | NotMail]:
    number = 0
    for separator, text, size in _split(file):
        if not separator and not text.strip():
            continue  # empty lines before the first message
        number += 1
        source = f"{path}#{number}"
        if size > MESSAGE_BYTES_MAX:
            yield NotMail(source, f"{size} bytes are more than one message may have", may_be_mail=True)
            continue
        if number == 1 and all(line.search(header_of(text)) for line in INTERNAL):
            yield NotMail(source, "no message: what mail programs keep of their folder")
            continue
        content = QUOTED.sub(rb"\1", text.removesuffix(_empty_end(text)))
        if not content:
            yield NotMail(source, "empty")
            continue
        received_ms = from_line_ms(separator)
        if received_ms is None:
            received_ms = header_ms(content)
        yield MailItem(
            folder=folder,
            content=content if exact else content.replace(b"\n", b"\r\n"),
            received_ms=mtime_ms if received_ms is None else received_ms,
            flags=status_flags(content),
            keywords=(),
            source=source,
        )


def _empty_end(text: bytes) -> bytes:
    """The empty line that a message ends with, which belongs to the format; b"" where it has none."""
    for end in (b"\r\n", b"\n"):
        if text == end or text.endswith(b"\n" + end):
            return end
    return b""


def _split(file: BinaryIO) -> Iterator[tuple[bytes, bytes, int]]:
    """(separator, text, bytes) of each message. What is too large is counted and not kept."""
    separator, text = b"", bytearray()
    size, after_empty, undated_count, first = 0, True, False, True
    for line, following in pairwise(chain(_lines(file), (b"",))):
        if first and FROM_LINE.match(line):
            separator = line
            undated_count = FROM_DATE.search(line) is None
        elif line.startswith(b"From ") and _is_separator(line, following, after_empty, undated_count):
            yield separator, bytes(text), size
            separator, text, size = line, bytearray(), 0
        else:
            size += len(line)
            if size <= MESSAGE_BYTES_MAX:
                text += line
            else:
                text.clear()
        after_empty, first = line in (b"\n", b"\r\n"), False
    yield separator, bytes(text), size


def _is_separator(line: bytes, following: bytes, after_empty: bool, undated_count: bool) -> bool:
    """Whether a line that begins with `From ` begins a message, too."""
    if FROM_LINE.match(line) is None:
        return False
    before_header = FIELD.match(following) is not None
    if FROM_DATE.search(line):
        return after_empty or before_header
    return undated_count and before_header and (after_empty or line.strip() == b"From -")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; one without an end in sight comes in pieces, so that no file can fill the memory."""
    while line := file.readline(MESSAGE_BYTES_MAX):
        yield line


def _has_crlf(file: BinaryIO) -> bool:
    last = b""
    while piece := file.read(SCAN_BYTES):
        if b"\r\n" in piece or (last == b"\r" and piece[:1] == b"\n"):
            return True
        last = piece[-1:]
    return False


def write_mbox(path: Path | str, items: Iterable[MailItem], *, sync: bool = True) -> int:
    """A new folder with one mbox a folder (`A.mbox`, `A/B.mbox`); returns how many messages. Blocking.

    Durable: on return.
    Bounded by: one message, and a name for each folder.

    Raises:
        RequestRefused: `path` is not empty.
        EndpointBroken: the disk refuses.
    """
    root = Path(path)
    make_target(root)
    writer = _Writer(root, sync=sync)
    count = 0
    try:
        try:
            for item in items:
                writer.write(item)
                count += 1
            writer.finish()
        finally:
            writer.close()
    except OSError as error:
        raise broken(root, error) from error
    return count


class _Writer:
    def __init__(self, root: Path, *, sync: bool) -> None:
        self._root = root
        self._sync = sync
        self._taken: dict[tuple[str, ...], set[str]] = {}
        self._folders: dict[tuple[str, ...], Path] = {(): root}
        self._files: dict[tuple[str, ...], Path] = {}
        self._open: dict[tuple[str, ...], BinaryIO] = {}

    def write(self, item: MailItem) -> None:
        file = self._file(canonical_folder(item.folder))
        seconds = max(0, min(item.received_ms // 1000, 253402300799))  # four digits of year
        date = datetime.fromtimestamp(seconds, UTC)
        # strftime would speak the host's language.
        file.write(f"From MAILER-DAEMON {date.ctime()}\r\n".encode())
        file.write(TO_QUOTE.sub(rb">\1", item.content))
        file.write(b"\r\n" if item.content.endswith(b"\n") else b"\r\n\r\n")

    def finish(self) -> None:
        names = []
        for folder, path in self._files.items():
            place = path.relative_to(self._root)
            if canonical_folder((*(decode_name(part) for part in place.parts[:-1]), folder_name(place.name))) != folder:
                names.append(json.dumps({"file": place.as_posix(), "path": folder}).encode() + b"\n")
        if names:
            write_file(self._root / FOLDERS_FILE, b"".join(names), sync=self._sync)
        self.close()
        if self._sync:
            for path in self._files.values():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            sync_tree(self._root)

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, folder: tuple[str, ...]) -> BinaryIO:
        if folder not in self._open:
            if len(self._open) >= OPEN_FILES_MAX:
                self._open.pop(next(iter(self._open))).close()
            if folder not in self._files:
                parent = self._folder(folder[:-1])
                self._files[folder] = parent / safe_name(folder[-1], self._taken_in(folder[:-1]), ending=".mbox")
            self._open[folder] = open(self._files[folder], "ab")  # noqa: SIM115 (closed by `close`)
        return self._open[folder]

    def _folder(self, folder: tuple[str, ...]) -> Path:
        if folder not in self._folders:
            parent = self._folder(folder[:-1])
            self._folders[folder] = parent / safe_name(folder[-1], self._taken_in(folder[:-1]))
            self._folders[folder].mkdir()
        return self._folders[folder]

    def _taken_in(self, folder: tuple[str, ...]) -> set[str]:
        return self._taken.setdefault(folder, set())
