"""One folder of a Maildir on the disk: scanned, read, written; blocking.

Nobody holds a lock on a Maildir. A delivery agent links files into `new`, a mail server renames them into `cur` and
from name to name while their flags change; a scan that goes on meanwhile may miss a file that is there, or meet it
twice. So a scan counts as whole (`is_whole`) only when neither `cur` nor `new` changed from before to after it, as
their modification times say; those are of the kernel's coarse clock, so a change of the last moments is waited out.

What is written is written as a delivery agent does: into `tmp`, to the disk, and by one rename into `cur`.
"""

import bz2
import errno
import gzip
import lzma
import os
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import attrs
import xxhash

from moverq.endpoints.files.links import LEADS_NOWHERE, leads_to, open_mail
from moverq.endpoints.files.owner import Owner, new_file
from moverq.endpoints.files.ticks import granule_ns
from moverq.endpoints.maildir import names
from moverq.endpoints.mirrored.normal_form import as_sent, content_hash, is_clean
from moverq.flow.folders import sync_folder

SUBFOLDERS: Final = (b"cur", b"new", b"tmp")
WATCHED: Final = (b"cur", b"new")
WATCHED_BESIDE: Final = (b"dovecot-uidlist", b"dovecot-keywords", b"courierimapuiddb")
TRIES: Final = 4
"""Of a scan, until it is whole."""
MESSAGE_BYTES_MAX: Final = 2 << 30
_OF_THE_HOST: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
"""Nothing that a file could be blamed for: with them the next one cannot be read either, and all can be, later."""


@attrs.frozen
class Scan:
    """The messages of a folder. `files`: by base name, where below the folder it is now: `cur/name` or `new/name`.
    Where several have one base: see `_tell_apart`."""

    files: dict[bytes, bytes]
    is_whole: bool
    """Who is not among them was not there."""
    signature: int
    """`signature` of the time before the scan; 0 where it is not whole, or there is no folder."""


def is_folder(path: bytes) -> bool:
    """Raises `OSError` where that cannot be seen: one that we may not enter is not one that is not there."""
    return stat.S_ISDIR(leads_to(os.path.join(path, b"cur")))


def folder_object(path: bytes) -> bytes:
    """What stays of a folder when it is renamed. Raises `OSError`."""
    found = os.stat(path)
    return b"%x.%x" % (found.st_dev, found.st_ino)


def signature(path: bytes, beside: bytes) -> int:
    """A number that is another one after any change of the folder's messages; 0: it is too early to tell. `beside`:
    where its UID list and its keywords are.

    Raises `OSError`.
    """
    now = time.time_ns()
    stamp = _stamp(path, beside)
    return _told(stamp) if _to_wait_ns(stamp, now) <= 0 else 0


Stamp = tuple[tuple[int, int, int], ...]
"""(inode, modification time, size) of each that is watched."""


def _stamp(path: bytes, beside: bytes) -> Stamp:
    said = []
    places = [os.path.join(path, name) for name in WATCHED] + [os.path.join(beside, name) for name in WATCHED_BESIDE]
    for place in places:
        try:
            found = os.stat(place)
        except FileNotFoundError:
            if place is places[0]:
                raise
            said.append((0, 0, 0))
        else:
            said.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return tuple(said)


def _told(stamp: Stamp) -> int:
    return (xxhash.xxh3_64_intdigest(repr(stamp).encode()) >> 2) | 1


def _to_wait_ns(stamp: Stamp, now_ns: int) -> int:
    """Until then the next change may bear the same time as the last one. A time that is to come is not waited for: it
    was set by hand, or the clock was."""
    times = [mtime for _, mtime, _ in stamp if mtime]
    granule = granule_ns(times)
    return max((mtime + granule - now_ns for mtime in times if mtime <= now_ns + granule), default=0)


def scan(path: bytes, beside: bytes) -> Scan:
    """Waits out a change of this moment. Raises `OSError`."""
    met: dict[bytes, bytes] = {}
    for _ in range(TRIES):
        time.sleep(max(0, _to_wait_ns(_stamp(path, beside), time.time_ns())) / 1e9)
        now, stamp = time.time_ns(), _stamp(path, beside)
        listed: dict[bytes, bytes] = {}
        twice: dict[bytes, list[bytes]] = {}
        for rel in _listed(path):
            base = names.base(rel[4:])
            if base in listed:
                twice.setdefault(base, [listed[base]]).append(rel)
            listed[base] = rel
        with suppress(FileNotFoundError):  # it has another name by now, so this look is not whole
            _tell_apart(path, listed, twice)
        met |= listed
        if _to_wait_ns(stamp, now) <= 0 and _stamp(path, beside) == stamp:
            return Scan(listed, is_whole=True, signature=_told(stamp))
    return Scan(met, is_whole=False, signature=0)


def _tell_apart(path: bytes, listed: dict[bytes, bytes], twice: dict[bytes, list[bytes]]) -> None:
    """Files that have a base in common, though none should: of a backup that was put back over newer mail, say. Each is
    a message, as to Dovecot; its base is made one by its inode, behind a slash, which no file name has. Two names of
    one file are one message on its way from name to name. Raises `OSError`."""
    for base, rels in twice.items():
        by_inode = {os.lstat(os.path.join(path, rel)).st_ino: rel for rel in rels}
        if len(by_inode) > 1:
            del listed[base]
            listed.update((b"%s/%x" % (base, inode), rel) for inode, rel in by_inode.items())


def _listed(path: bytes) -> Iterator[bytes]:
    """`new` first: what moves on to `cur` meanwhile is met there."""
    for place in (b"new", b"cur"):
        try:
            for name in os.listdir(os.path.join(path, place)):
                if not name.startswith(b"."):
                    yield place + b"/" + name
        except FileNotFoundError:
            if place == b"cur":
                raise


def count(path: bytes) -> int:
    """How many messages are there, about. Raises `OSError`."""
    return sum(1 for _ in _listed(path))


def received_and_size(path: bytes, rel: bytes) -> tuple[int, int]:
    """(milliseconds, size as mail if the name says it, else on the disk). Raises `OSError`."""
    try:
        found = os.stat(os.path.join(path, rel))
    except OSError as error:
        if error.errno not in (*LEADS_NOWHERE, errno.EACCES):
            raise
        found = os.lstat(os.path.join(path, rel))  # a link is there, whatever it leads to, and whoever may go there
    said = names.size(rel)
    return found.st_mtime_ns // 1_000_000, said if said is not None else found.st_size


# ---- bytes


class Unreadable(Exception):
    """There is a file, and no message can be had from it; the text says why."""


def read(path: bytes, rel: bytes, known_hash: bytes) -> bytes:
    """The message, with CRLF at the ends of its lines; or just the file's bytes, where these are known to be it.

    Raises:
        FileNotFoundError: it is not there, or not there any more.
        Unreadable: see the class.
        OSError: nothing can be read for now.
    """
    try:
        data = _bytes_of(os.path.join(path, rel))
    except FileNotFoundError:
        if os.path.islink(os.path.join(path, rel)):
            raise Unreadable("it is a symbolic link that leads nowhere") from None
        raise
    except OSError as error:
        if error.errno in _OF_THE_HOST:
            raise
        raise Unreadable(f"the file cannot be read: {error.strerror}") from error
    data = _unpacked(data, names.disk_size(rel))
    if content_hash(data) == known_hash or names.mail_size(rel) == len(data):
        return data
    return as_sent(data)


def _bytes_of(path: bytes) -> bytes:
    # Non-blocking, for a pipe that somebody put there must not hold the reading up.
    descriptor = open_mail(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("it is no regular file")
        if found.st_size > MESSAGE_BYTES_MAX:
            raise Unreadable(f"{found.st_size} bytes are more than one message may have")
        return file.read()


def _unpacked(data: bytes, size: int | None) -> bytes:
    """Dovecot's compression: the name has the size of the message, and the file is shorter, and begins as packed ones
    do."""
    if size is None or size == len(data):
        return data
    try:
        if data.startswith(b"\x1f\x8b"):
            return _checked(gzip.decompress(data), size)
        if data.startswith(b"BZh"):
            return _checked(bz2.decompress(data), size)
        if data.startswith(b"\xfd7zXZ\0"):
            return _checked(lzma.decompress(data), size)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise Unreadable(f"it is packed, and cannot be unpacked: {error}") from error
    if data.startswith((b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"Dovecot-LZ4\x0d\x2a\x9b\xc5")):
        raise Unreadable("it is packed by zstd or lz4, which is not unpacked here; move it through its IMAP server")
    return data


def _checked(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes came out, and the name says {size}")
    return data


# ---- writes


def deliver(path: bytes, base: bytes, content: bytes, *, received_ms: int, info: bytes, owner: Owner) -> bytes:
    """The message is in `cur`, under the name that is returned: `base`, its sizes and `info`. Durable once the caller
    has synced `cur`.

    A clean message is kept with LF at the ends of its lines, as what reads a Maildir expects; any other as it is. Done
    again, it does no harm. Raises `OSError`.
    """
    stored, sizes = content, b",S=%d" % len(content)
    if is_clean(content):
        stored = content.replace(b"\r\n", b"\n")
        sizes = b",S=%d,W=%d" % (len(stored), len(content))
    temporary = os.path.join(path, b"tmp", base)
    with os.fdopen(_made(temporary, owner), "wb", buffering=0) as file:
        descriptor = file.fileno()
        view = memoryview(stored)
        while view:
            view = view[file.write(view) :]
        owner.take(descriptor)
        os.utime(descriptor, ns=(received_ms * 1_000_000, received_ms * 1_000_000))
        os.fsync(descriptor)
    rel = b"cur/" + base + sizes + b":2," + info
    os.rename(temporary, os.path.join(path, rel))
    return rel


def _made(temporary: bytes, owner: Owner) -> int:
    """Open for writing. A folder may have lost its empty `tmp`, in a backup or an archive."""
    try:
        return new_file(temporary)
    except FileNotFoundError:
        owner.make_folder(os.path.dirname(temporary))
        return new_file(temporary)


def discard(path: bytes, base: bytes) -> None:
    """What a delivery left in `tmp` that was cut short is gone."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(path, b"tmp", base))


def make(path: bytes, owner: Owner, *, is_root: bool) -> None:
    """A Maildir folder is there, durable. Raises `OSError`."""
    owner.make_folder(path)
    for name in SUBFOLDERS:
        owner.make_folder(os.path.join(path, name))
    if not is_root:
        owner.make_file(os.path.join(path, b"maildirfolder"))
    sync_folder(path)
    sync_folder(os.path.dirname(path))


__all__ = ["Scan", "Unreadable", "count", "deliver", "discard", "make", "read", "scan", "signature"]
