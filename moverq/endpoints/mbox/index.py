"""What messages an mbox holds, and where: one pass over the file, one message in memory at a time; blocking.

A message has no name in an mbox. What stays of it is its separator and its bytes without the programs' fields: their
hash is its *base*, with a number behind it that counts equal ones. So of equal messages any may be any.

An index is of one state of the file (`Stamp`). A message that is read by an old one is noticed by its hash. A file that
only grew is read from its last message on: a hash says that what is before is as it was.
"""

import os
import time
from collections import Counter
from itertools import islice
from typing import Final, NamedTuple

import attrs
import xxhash

from moverq.endpoints.files.ticks import GRANULE_NS, granule_ns
from moverq.endpoints.mbox import message
from moverq.endpoints.mbox.locks import is_being_written, try_share
from moverq.endpoints.mbox.message import NO_BASE, Base, as_mail, separator_ms, taken_apart
from moverq.endpoints.mbox.opening import open_mbox
from moverq.endpoints.mbox.splitting import SCAN_BYTES, ReadAt, separator_bytes, split
from moverq.mailfiles.item import MESSAGE_BYTES_MAX

TRIES: Final = 4
"""Of an index while others write; all but the first make them wait."""
WAIT_S: Final = 0.25
"""Between two tries, while somebody holds a lock."""


class Stamp(NamedTuple):
    """A state of a file, as `stat` tells it."""

    inode: int
    mtime_ns: int
    size: int


class Entry(NamedTuple):
    """One message: [begin, end) in the file, separator included."""

    begin: int
    end: int
    received_ms: int
    size: int
    """As mail."""
    flags: int
    keywords: tuple[str, ...]
    uid: int
    """0: none."""
    token: bytes
    """Ours, on the separator; b"" where it is none of ours."""


class Mark(NamedTuple):
    """The file up to a message, as a hash."""

    end: int
    digest: bytes


@attrs.frozen
class Index:
    """By base, in the file's order."""

    entries: dict[bytes, Entry]
    base: Base
    stamp: Stamp
    is_whole: bool
    """Nobody wrote meanwhile: who is not there was not there."""
    bad: dict[bytes, str] = attrs.field(factory=dict)
    """Those of the entries that cannot be read, and why."""
    mark: Mark | None = None
    internal: Entry | None = None
    """The message that is none, if the file begins with one: what it says of the folder is `base`."""
    is_settled: bool = True
    """The next change of the file will bear another time."""

    @property
    def signature(self) -> int:
        return signature_of(self.stamp) if self.is_whole else 0


NOTHING: Final = Stamp(0, 0, 0)
EMPTY: Final = Index({}, NO_BASE, NOTHING, is_whole=True)
"""Of a file that is not there."""


def stamp_of(path: bytes | int) -> Stamp:
    """Raises `OSError`."""
    found = os.stat(path)
    return Stamp(found.st_ino, found.st_mtime_ns, found.st_size)


def signature_of(stamp: Stamp) -> int:
    """A number that is another one after any change; 0: it is too early to tell."""
    if is_fresh(stamp):
        return 0
    return (xxhash.xxh3_64_intdigest(repr(stamp).encode()) >> 2) | 1


def is_fresh(stamp: Stamp) -> bool:
    """The next change may bear the same time, and leave the same size."""
    return 0 <= time.time_ns() - stamp.mtime_ns < granule_ns([stamp.mtime_ns])


def read_index(path: bytes, *, known: Index | None = None, is_ours: bool = False) -> Index:
    """What is in the file. `is_ours`: we hold its locks. Raises `OSError`."""
    for attempt in range(TRIES):
        with open(path, "rb", buffering=0, opener=open_mbox) as file:
            descriptor = file.fileno()
            # A change within the second of the one before would not be seen: so it is kept from happening meanwhile.
            if not is_ours and (attempt or is_fresh(stamp_of(descriptor))):
                try_share(descriptor)
            busy = not is_ours and is_being_written(path, descriptor)
            if not busy or attempt + 1 == TRIES:
                before = stamp_of(path)
                wait_ns = before.mtime_ns + GRANULE_NS - time.time_ns()
                if not is_ours and 0 < wait_ns <= GRANULE_NS:
                    time.sleep(wait_ns / 1e9)
                index = _pass(_reader(descriptor), before, known)
                busy = busy or (not is_ours and is_being_written(path, descriptor))
                if not busy and stamp_of(descriptor) == stamp_of(path) == before:
                    return attrs.evolve(index, is_settled=not is_ours and not is_fresh(before))
        if busy:
            time.sleep(WAIT_S)
    return attrs.evolve(index, is_whole=False)


def count(path: bytes, *, most: int) -> int:
    """How many messages are there, at the most so many. Raises `OSError`."""
    with open(path, "rb", buffering=0, opener=open_mbox) as file:
        pieces = islice(split(_reader(file.fileno())), most)
        return sum(not taken_apart(piece.text)[0].is_internal for piece in pieces if piece.separator)


def _reader(descriptor: int) -> ReadAt:
    return lambda offset, size: os.pread(descriptor, size, offset)


def _pass(read_at: ReadAt, stamp: Stamp, known: Index | None) -> Index:
    entries: dict[bytes, Entry] = {}
    bad: dict[bytes, str] = {}
    equal: Counter[bytes] = Counter()
    base, begin = NO_BASE, 0
    hasher = _hashed(read_at, known.mark) if known is not None and known.mark is not None else None
    if known is not None and known.mark is not None and hasher is not None:
        begin, base = known.mark.end, known.base
        for name, entry in known.entries.items():
            if entry.begin < begin:
                entries[name] = entry
                equal[name.partition(b".")[0]] += 1
        bad = {name: why for name, why in known.bad.items() if name in entries}
    hasher = hasher if begin else xxhash.xxh3_128()
    mark: Mark | None = None
    internal = known.internal if known is not None and begin else None
    last_uid = max((entry.uid for entry in entries.values()), default=0)
    for piece in split(read_at, begin):
        if hasher is not None:
            mark = Mark(piece.begin, hasher.digest())
            hasher.update(piece.separator + piece.text)
        if piece.is_too_large:
            hasher = None
        elif not piece.separator and not piece.text.strip():
            continue
        said, bare = taken_apart(piece.text)
        if piece.begin == 0 and said.base is not None:
            base = said.base
            if said.is_internal:
                internal = Entry(piece.begin, piece.end, 0, 0, 0, (), 0, b"")
                continue
        mail = as_mail(bare)
        same = base_of(piece.separator, mail)
        name = b"%s.%d" % (same, equal[same])
        equal[same] += 1
        if piece.is_too_large:
            bad[name] = f"{piece.end - piece.begin:,} bytes are more than one message may have"
        received_ms = separator_ms(piece.separator)
        uid = said.uid if base.validity and last_uid < said.uid else 0
        last_uid = max(last_uid, uid)
        entries[name] = Entry(
            piece.begin,
            piece.end,
            stamp.mtime_ns // 1_000_000 if received_ms is None else received_ms,
            len(mail),
            said.flags,
            message.listed(said.keywords, base),
            uid,
            message.token_of(piece.separator),
        )
    return Index(entries, base, stamp, is_whole=True, bad=bad, mark=mark, internal=internal)


def _hashed(read_at: ReadAt, mark: Mark) -> xxhash.xxh3_128 | None:
    """The hash of all before the mark; None where that is not what it was."""
    at, hasher = 0, xxhash.xxh3_128()
    while at < mark.end:
        piece = read_at(at, min(SCAN_BYTES, mark.end - at))
        if not piece:
            return None
        hasher.update(piece)
        at += len(piece)
    return hasher if hasher.digest() == mark.digest else None


def base_of(separator: bytes, mail: bytes) -> bytes:
    """What does not change of a message, in 32 letters."""
    return xxhash.xxh3_128_hexdigest(separator.strip() + b"\n" + mail).encode()


def read_raw(path: bytes, entry: Entry) -> tuple[bytes, bytes]:
    """(separator, text) as they stand in the file. Raises `OSError`."""
    with open(path, "rb", buffering=0, opener=open_mbox) as file:
        raw = os.pread(file.fileno(), min(entry.end - entry.begin, MESSAGE_BYTES_MAX), entry.begin)
    return parted(raw)


def parted(raw: bytes) -> tuple[bytes, bytes]:
    line = separator_bytes(raw) if raw.startswith(b"From ") else 0
    return raw[:line], raw[line:]


def read_message(path: bytes, entry: Entry, base: bytes) -> bytes | None:
    """The message; None where it is not there any more. Raises `OSError`."""
    separator, text = read_raw(path, entry)
    _, bare = taken_apart(text)
    mail = as_mail(bare)
    return mail if base.startswith(base_of(separator, mail) + b".") else None
