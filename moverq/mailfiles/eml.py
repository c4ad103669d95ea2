"""A file a message (.eml), a folder a folder, and `index.jsonl` for what a file of mail cannot say.

    <path>/index.jsonl                one line a message: file, folder, received_ms, flags, keywords, sha256, bytes
    <path>/INBOX/000001.eml           the message, byte for byte
    <path>/Projects/Berlin/000001.eml

The form for keeping and for looking into: every mail program opens a file of it, and with its index it goes back in
complete. A file whose bytes are no longer those of its line has been edited: it is read as any other .eml, with the
flags of its line, and the difference is reported.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from moverq.mailfiles.files import broken, make_target, open_file, read_file, sync_tree, write_file
from moverq.mailfiles.item import MailItem, NotMail, canonical_folder
from moverq.mailfiles.names import safe_name
from moverq.mailfiles.text import from_line_ms, header_ms, split_from_line, with_crlf
from moverq.model.change import Flag

INDEX_FILE = "index.jsonl"
LINE_BYTES_MAX = 1 << 20
"""Longer than any line that was written: what is longer is not read at once."""
UNFINISHED_FILE = "index.jsonl.unfinished"
"""The index while it is being written."""
FLAG_NAMES = {
    "Seen": Flag.SEEN,
    "Answered": Flag.ANSWERED,
    "Flagged": Flag.FLAGGED,
    "Deleted": Flag.DELETED,
    "Draft": Flag.DRAFT,
}


def eml_item(
    path: Path, content: bytes, *, mtime_ms: int, folder: tuple[str, ...], flags: int, keywords: tuple[str, ...]
) -> MailItem:
    """A message from a file without an index line. Received: by `From ` line, Received, Date, or the file's date."""
    line, content = split_from_line(content)
    received_ms = from_line_ms(line) if line else None
    if received_ms is None:
        received_ms = header_ms(content)
    return MailItem(
        folder=folder,
        content=with_crlf(content),
        received_ms=mtime_ms if received_ms is None else received_ms,
        flags=flags,
        keywords=keywords,
        source=str(path),
    )


def read_indexed(path: Path, above: tuple[str, ...], seen: set[Path], *, root: Path) -> Iterator[MailItem | NotMail]:
    """The messages that `index.jsonl` names, in its order, below the folder `above`. Their files go into `seen`.
    `root`: see `open_file`.

    An index whose first line is none of ours is somebody else's: it is reported, once, and left alone.
    """
    index = path / INDEX_FILE
    seen.add(index)
    try:
        opened = open_file(index, root=root)
        if isinstance(opened, NotMail):
            yield opened
            return
        with opened as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), 1):
                try:
                    said = _Line.parse(line)
                except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
                    yield NotMail(f"{index}#{number}", f"no line of an index: {error!r}", may_be_mail=True)
                    if number == 1:
                        return
                    continue
                named = path / said.file
                if not _is_inside(named, path):
                    yield NotMail(f"{index}#{number}", "it names a file outside the folder; not followed")
                    continue
                seen.add(named)
                found = read_file(named, root=root)
                if isinstance(found, NotMail):
                    yield found
                    continue
                content = found[0]
                if hashlib.sha256(content).hexdigest() != said.sha256:
                    yield NotMail(str(named), f"differs from what {INDEX_FILE} says; read as it is now")
                    content = with_crlf(split_from_line(content)[1])
                folder = canonical_folder((*above, *said.folder))
                yield MailItem(folder, content, said.received_ms, said.flags, said.keywords, str(named))
    except OSError as error:
        yield NotMail(str(index), f"cannot be read to its end: {error.strerror}", may_be_mail=True)


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return False


@attrs.frozen
class _Line:
    """One line of the index."""

    file: str
    folder: tuple[str, ...]
    received_ms: int
    flags: int
    keywords: tuple[str, ...]
    sha256: str

    @classmethod
    def parse(cls, line: bytes) -> "_Line":
        """Raises ValueError, KeyError, TypeError, RecursionError or OverflowError where it is none."""
        said = json.loads(line)
        if b"\0" in os.fsencode(str(said["file"])) or not -(1 << 63) <= int(said["received_ms"]) < 1 << 63:
            raise ValueError("a file name or a date that cannot be")
        flags = Flag(0)
        for name in said["flags"]:
            flags |= FLAG_NAMES[name]
        return cls(
            file=str(said["file"]),
            folder=tuple(str(name) for name in said["folder"]),
            received_ms=int(said["received_ms"]),
            flags=int(flags),
            keywords=tuple(sorted({str(name) for name in said["keywords"]})),
            sha256=str(said["sha256"]),
        )


def write_eml(path: Path | str, items: Iterable[MailItem], *, sync: bool = True) -> int:
    """A new folder with a file a message and an index; returns how many. Blocking.

    Durable: on return. The index gets its name last: an export without one was cut short.
    Bounded by: one message, and a name for each folder.

    Raises:
        RequestRefused: `path` is not empty.
        EndpointBroken: the disk refuses.
    """
    root = Path(path)
    make_target(root)
    writer = _Writer(root, sync=sync)
    count = 0
    unfinished = root / UNFINISHED_FILE
    try:
        with open(unfinished, "xb") as index:
            for item in items:
                index.write(json.dumps(writer.write(item)).encode() + b"\n")
                count += 1
            index.flush()
            if sync:
                os.fsync(index.fileno())
                sync_tree(root)
        unfinished.rename(root / INDEX_FILE)
        if sync:
            sync_tree(root)
    except OSError as error:
        raise broken(root, error) from error
    return count


class _Writer:
    def __init__(self, root: Path, *, sync: bool) -> None:
        self._root = root
        self._sync = sync
        self._folders: dict[tuple[str, ...], Path] = {(): root}
        self._taken: dict[tuple[str, ...], set[str]] = {}
        self._count: dict[tuple[str, ...], int] = {}

    def write(self, item: MailItem) -> dict[str, Any]:
        """Write the message; its line in the index."""
        names = canonical_folder(item.folder)
        number = self._count[names] = self._count.get(names, 0) + 1
        path = self._folder(names) / f"{number:06}.eml"
        write_file(path, item.content, sync=self._sync)
        return {
            "file": path.relative_to(self._root).as_posix(),
            "folder": names,
            "received_ms": item.received_ms,
            "flags": [name for name, flag in FLAG_NAMES.items() if item.flags & flag],
            "keywords": item.keywords,
            "sha256": hashlib.sha256(item.content).hexdigest(),
            "bytes": len(item.content),
        }

    def _folder(self, names: tuple[str, ...]) -> Path:
        if names not in self._folders:
            parent = self._folder(names[:-1])
            # A folder may be called as a message of its parent's is: `000001.eml`.
            name = names[-1] + "_" if names[-1].lower().endswith(".eml") else names[-1]
            self._folders[names] = parent / safe_name(name, self._taken.setdefault(names[:-1], set()))
            self._folders[names].mkdir()
        return self._folders[names]
