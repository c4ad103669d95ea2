"""Files, carefully: reading without surprises, writing so that it lasts."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from moverq.errors import EndpointBroken, NotFound, RequestRefused
from moverq.mailfiles.item import MESSAGE_BYTES_MAX, NotMail


def open_file(path: Path, *, root: Path, buffering: int = -1) -> BinaryIO | NotMail:
    """A regular file below `root`, a path without links, open for reading; or why not.

    What was found is what is looked at, and what is opened: whoever changes links or folders meanwhile changes nothing
    of that. A pipe or a device is not even opened.

    Raises `OSError`.
    """
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        itself = f"/proc/self/fd/{found}"
        if not Path(os.readlink(itself)).is_relative_to(root):
            return NotMail(str(path), "a symbolic link that leads out of the folder; not followed")
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return NotMail(str(path), "no regular file")
        return open(itself, "rb", buffering=buffering)
    finally:
        os.close(found)


def read_file(path: Path, *, root: Path) -> tuple[bytes, os.stat_result] | NotMail:
    """Its bytes and its stat; or why not. `root`: see `open_file`."""
    try:
        opened = open_file(path, root=root)
        if isinstance(opened, NotMail):
            return opened
        with opened as file:
            found = os.fstat(file.fileno())
            if found.st_size > MESSAGE_BYTES_MAX:
                return NotMail(str(path), f"{found.st_size} bytes are more than one message may have", may_be_mail=True)
            return file.read(), found
    except OSError as error:
        return NotMail(str(path), f"cannot be read: {error.strerror or error}", may_be_mail=True)


def read_side_file(path: Path, *, root: Path) -> bytes:
    """What is not there, or cannot be read, says nothing."""
    found = read_file(path, root=root)
    return b"" if isinstance(found, NotMail) else found[0]


def read_lists(path: Path, name: str, *, root: Path) -> dict[str, tuple[str, ...]]:
    """A side file of ours, a line of JSON each: the list of texts called `name`, by the `file` it is about.

    What is not there, or not so, says nothing.
    """
    found = {}
    for line in read_side_file(path, root=root).splitlines():
        try:
            said = json.loads(line)
            found[str(said["file"])] = tuple(str(text) for text in said[name])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def entries(folder: Path) -> Iterator[os.DirEntry[str] | NotMail]:
    """What lies in a folder, by name; or why it cannot be listed."""
    try:
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        yield NotMail(str(folder), f"cannot be listed: {error.strerror}", may_be_mail=True)
        return
    yield from found


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def check_exists(path: Path) -> None:
    """Raises `NotFound`, and `OSError` where that cannot be seen."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(kind="file or folder", name=str(path)) from None


def make_target(path: Path) -> None:
    """An empty folder for an export.

    Raises:
        RequestRefused: there is something in it; an export never mixes with what is there.
        EndpointBroken: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise RequestRefused(why=f"{path} is not empty; name a new folder to write to")
    except OSError as error:
        raise broken(path, error) from error


def broken(path: Path, error: OSError) -> EndpointBroken:
    """The disk's refusal of a write, in words."""
    return EndpointBroken(
        endpoint=str(error.filename or path),
        why=f"cannot be written: {error.strerror}; what was written so far is incomplete, delete it and write again",
    )


def write_file(path: Path, content: bytes, *, sync: bool) -> None:
    """A new file with these bytes, on the disk before this returns (with `sync`)."""
    with open(path, "xb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        if sync:
            os.fsync(file.fileno())


def sync_tree(root: Path) -> None:
    """Every name below `root`, and its own, is on the disk."""
    for folder, _, _ in os.walk(root):
        sync_folder(Path(folder))
    sync_folder(root.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
