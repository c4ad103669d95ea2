"""Changes in the middle of an mbox: flags, removals; blocking.

A file keeps its place and its inode: who waits for a lock on it waits for this file, and would write to nobody's if
another took its name. So the file is written over, and what is to be written is on the disk before: in a **journal**,
with what the mirror will be told when it is done.

    data of the segments | msgpack of `Journal` | its length (4) | xxh3_128 of all before (16)
    segment: (offset in the file, length); a change that is as long as what it replaces moves nothing behind it

    journal ─▶ segments, truncate, fsync ─▶ the mirror ─▶ the journal goes

After a crash a journal that is whole is carried out again (`recover`), and one that is not was never begun. So a change
is made once, also where of equal messages one is to go. A journal that does not fit the file any more, for others have
written over it, is left: the next look tells what is there.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from random import randrange
from typing import Any, BinaryIO, Final

import attrs
import msgpack
import xxhash

from moverq.endpoints.mbox.index import Index, parted, read_index
from moverq.endpoints.mbox.locks import locked
from moverq.endpoints.mbox.message import Base, taken_apart, with_said
from moverq.flow.folders import sync_folder

_INTERNAL: Final = re.compile(rb"^(x-imap:[^\r\n]*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)
COPY_BYTES: Final = 1 << 20
_HASH_BYTES: Final = 16
_LENGTH_BYTES: Final = 4


@attrs.frozen(kw_only=True)
class Changes:
    """What is to be different, by base."""

    flags: Mapping[bytes, tuple[int, tuple[str, ...]]] = attrs.field(factory=dict)
    gone: frozenset[bytes] = frozenset()
    keywords: frozenset[str] = frozenset()
    """That the folder has, from now on at least."""
    torn: tuple[int, bytes] | None = None
    """Where an append of ours began, and with which line: if that is cut short it goes. Alone, with nothing else."""
    validity: int = 0
    """What a folder gets for its UIDVALIDITY that has none yet and must say keywords."""


@attrs.frozen(kw_only=True)
class Journal:
    """What a rewrite does. Offsets and lengths are of the file."""

    segments: tuple[tuple[int, int], ...]
    old_size: int
    new_size: int
    untouched: bytes
    """The hash of what stays where it is."""
    before: bytes
    """Of what the segments write over."""
    leftover: bytes
    """Of what is behind `new_size`."""
    note: bytes
    """For the mirror, when it is done."""


Note = Callable[[set[bytes], dict[bytes, bytes]], bytes]
"""(the bases that were there, the new bases of those that have another now): what the mirror is to be told."""


def rewrite(path: bytes, changes: Changes, journal: bytes, note: Note) -> bytes | None:
    """The file is what it was, but for the changes. Returns the note; the journal stays until `forget`. None: there is
    no such file. Durable. Raises `OSError`.
    """
    try:
        with locked(path) as descriptor:
            index = read_index(path, is_ours=True)
            with open(journal + b".tmp", "wb") as file:
                plan = _write_journal(file, descriptor, index, changes, note)
                file.flush()
                os.fsync(file.fileno())
            os.rename(journal + b".tmp", journal)
            sync_folder(os.path.dirname(journal))
            with open(journal, "rb") as file:
                _carry_out(descriptor, plan, file, size=index.stamp.size)
            return plan.note
    except FileNotFoundError:
        return None


def is_announced(journal: bytes) -> bool:
    """Was a rewrite cut short?"""
    return os.path.exists(journal) or os.path.exists(journal + b".tmp")


def forget(journal: bytes) -> None:
    """The mirror has been told."""
    with suppress(FileNotFoundError):
        os.unlink(journal)
        sync_folder(os.path.dirname(journal))


# ---- the journal


def _write_journal(file: BinaryIO, descriptor: int, index: Index, changes: Changes, note: Note) -> Journal:
    segments: list[tuple[int, int]] = []
    hasher = xxhash.xxh3_128()

    def put(data: bytes) -> None:
        file.write(data)
        hasher.update(data)

    kept_at: int | None = None  # where in the old file, once something has moved, the next bytes come from
    at = 0  # where in the new file
    for begin, end, new in _replaced(descriptor, index, changes):
        if kept_at is None and new is not None and len(new) == end - begin:
            segments.append((begin, len(new)))
            put(new)
            continue
        if kept_at is None:
            at = kept_at = begin
            segments.append((begin, 0))
        for piece in _pieces(descriptor, kept_at, begin):
            put(piece)
            at += len(piece)
        if new is not None:
            put(new)
            at += len(new)
        kept_at = end
    new_size = index.stamp.size
    if kept_at is not None:
        for piece in _pieces(descriptor, kept_at, index.stamp.size):
            put(piece)
            at += len(piece)
        new_size = at
        segments[-1] = (segments[-1][0], at - segments[-1][0])
    plan = Journal(
        segments=tuple(segments),
        old_size=index.stamp.size,
        new_size=new_size,
        untouched=_hash(descriptor, _between(segments, min(index.stamp.size, new_size))),
        before=_hash(descriptor, _written_over(segments, index.stamp.size)),
        leftover=_hash(descriptor, [(new_size, index.stamp.size)]),
        note=note(set(index.entries), _new_bases(index, changes.gone)),
    )
    packed = msgpack.packb(attrs.astuple(plan))
    put(packed + len(packed).to_bytes(_LENGTH_BYTES, "big"))
    file.write(hasher.digest())
    return plan


def _replaced(descriptor: int, index: Index, changes: Changes) -> Iterator[tuple[int, int, bytes | None]]:
    """(begin, end, what stands there from now on; None: nothing), in the file's order."""
    if changes.torn is not None:
        begin, head = changes.torn
        end = begin + _torn_bytes(os.pread(descriptor, len(head) + len(b"\nFrom "), begin), head)
        if end > begin:
            yield begin, end, None
        return
    base = index.base
    known = {word.lower() for word in base.keywords}
    added = tuple(sorted(word for word in changes.keywords if word.lower() not in known))
    if added:
        base = Base(base.validity or changes.validity, base.last_uid, (*base.keywords, *added))
    if index.internal is not None and added:
        begin, end = index.internal[:2]
        yield begin, end, _INTERNAL.sub(rb"\1 " + " ".join(added).encode(), os.pread(descriptor, end - begin, begin), 1)
    has_base = index.internal is None and bool(base.validity)
    to_give = has_base and (bool(added) or next(iter(index.entries), b"") in changes.gone)
    for at, (name, entry) in enumerate(index.entries.items()):
        if name in changes.gone:
            yield entry.begin, entry.end, None
            continue
        if not to_give and name not in changes.flags:
            continue
        raw = os.pread(descriptor, entry.end - entry.begin, entry.begin)
        separator, text = parted(raw)
        said, _ = taken_apart(text)
        bits, words = changes.flags.get(name, (said.flags, entry.keywords))
        given = base if to_give or (has_base and at == 0) else None
        to_give = False
        yield (
            entry.begin,
            entry.end,
            separator + with_said(text, flags=bits, keywords=words, uid=said.uid, base=given, length=len(text)),
        )


def _torn_bytes(there: bytes, head: bytes) -> int:
    """How many of these bytes are the beginning of our line, where only that is there; 0: all of it is, or none. With
    the line end that who delivered behind it put there, if he looked."""
    same = 0
    while same < min(len(there), len(head)) and there[same] == head[same]:
        same += 1
    if same == len(head):
        return 0
    if same == len(there):
        return same
    for length in range(same, 0, -1):
        if there[length:].startswith((b"From ", b"\nFrom ")):
            return length + there[length:].startswith(b"\n")
    return 0


def _new_bases(index: Index, gone: frozenset[bytes]) -> dict[bytes, bytes]:
    """Equal messages behind one that goes are counted anew."""
    groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
    touched = {name.partition(b".")[0] for name in gone}
    for name in index.entries:
        if name.partition(b".")[0] in touched and name not in gone:
            groups[name.partition(b".")[0]].append(name)
    return {
        name: b"%s.%d" % (same, number)
        for same, names in groups.items()
        for number, name in enumerate(names)
        if name != b"%s.%d" % (same, number)
    }


def _between(segments: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    ranges, at = [], 0
    for begin, length in segments:
        ranges.append((at, min(begin, size)))
        at = begin + length
    return [*ranges, (at, size)]


def _written_over(segments: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    return [(min(begin, size), min(begin + length, size)) for begin, length in segments]


def _hash(descriptor: int, ranges: list[tuple[int, int]]) -> bytes:
    hasher = xxhash.xxh3_128()
    for begin, end in ranges:
        for piece in _pieces(descriptor, begin, end):
            hasher.update(piece)
    return hasher.digest()


def _pieces(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    while begin < end:
        piece = os.pread(descriptor, min(COPY_BYTES, end - begin), begin)
        if not piece:
            return
        yield piece
        begin += len(piece)


def decode_journal(tail: bytes) -> Journal | None:
    """From the end of a journal whose hash is right; None: it is none."""
    try:
        length = int.from_bytes(tail[-_LENGTH_BYTES:], "big")
        segments, old, new, *hashes, note = msgpack.unpackb(tail[-_LENGTH_BYTES - length : -_LENGTH_BYTES])
        plan = Journal(
            segments=tuple((int(begin), int(size)) for begin, size in segments),
            old_size=int(old),
            new_size=int(new),
            untouched=hashes[0],
            before=hashes[1],
            leftover=hashes[2],
            note=note,
        )
    except (ValueError, TypeError, IndexError, msgpack.UnpackException):
        return None
    is_bytes = all(isinstance(one, bytes) for one in (*hashes, plan.note))
    at = 0
    for begin, size in plan.segments:
        if begin < at or size < 0:
            return None
        at = begin + size
    return plan if is_bytes and len(hashes) == 3 and 0 <= at <= plan.new_size and plan.old_size >= 0 else None


def _read_journal(file: BinaryIO) -> Journal | None:
    """None: it was never finished."""
    size = os.fstat(file.fileno()).st_size
    hasher = xxhash.xxh3_128()
    for piece in _pieces(file.fileno(), 0, size - _HASH_BYTES):
        hasher.update(piece)
    if size <= _HASH_BYTES or hasher.digest() != os.pread(file.fileno(), _HASH_BYTES, size - _HASH_BYTES):
        return None
    end = size - _HASH_BYTES
    length = int.from_bytes(os.pread(file.fileno(), _LENGTH_BYTES, end - _LENGTH_BYTES), "big")
    begin = max(0, end - _LENGTH_BYTES - length)
    return decode_journal(os.pread(file.fileno(), end - begin, begin))


# ---- carried out


def recover(path: bytes, journal: bytes) -> bytes | None:
    """A rewrite that was cut short is done, and its note returned; None: none was, or can be. Raises `OSError`."""
    with suppress(FileNotFoundError):
        os.unlink(journal + b".tmp")
    try:
        with open(journal, "rb") as file:
            plan = _read_journal(file)
            if plan is None:
                return None
            with locked(path) as descriptor:
                size = os.fstat(descriptor).st_size
                low = min(plan.old_size, plan.new_size)
                if size < low or _hash(descriptor, _between(plan.segments, low)) != plan.untouched:
                    return None  # somebody else has changed it since
                if not _is_known(descriptor, plan, size):
                    return None  # not begun, and others have written behind it
                is_shrunk = plan.new_size < plan.old_size and (
                    size < plan.old_size or _hash(descriptor, [(plan.new_size, plan.old_size)]) != plan.leftover
                )
                _carry_out(descriptor, plan, file, size=plan.new_size if is_shrunk else size)
            return plan.note
    except FileNotFoundError:
        return None


def _is_known(descriptor: int, plan: Journal, size: int) -> bool:
    """Of a file that is to grow: was it we who made it longer? It gets its new length first, and then what belongs
    there; what is behind that others wrote."""
    if plan.new_size <= plan.old_size or size == plan.old_size:
        return True
    if _hash(descriptor, _written_over(plan.segments, plan.old_size)) != plan.before:
        return True
    grown = b"".join(_pieces(descriptor, plan.old_size, min(size, plan.old_size + COPY_BYTES, plan.new_size)))
    return size >= plan.new_size and not grown.strip(b"\0")


def _carry_out(descriptor: int, plan: Journal, file: BinaryIO, *, size: int) -> None:
    """`size`: of the file, unless it was cut to its new size already. What others wrote behind it moves up."""
    second = int(os.fstat(descriptor).st_mtime)
    if size < plan.new_size:
        os.ftruncate(descriptor, plan.new_size)
    at = 0
    for begin, length in plan.segments:
        for piece in _pieces(file.fileno(), at, at + length):
            _write(descriptor, piece, begin)
            begin += len(piece)
        at += length
    if plan.new_size < plan.old_size <= size:
        end = plan.new_size
        for piece in _pieces(descriptor, plan.old_size, size):
            _write(descriptor, piece, end)
            end += len(piece)
        os.ftruncate(descriptor, end)
    if int(os.fstat(descriptor).st_mtime) <= second:
        # Dovecot looks at whole seconds: it would not see a change that left the size as it was. We look at the rest,
        # too, and in that second no two are alike: else a file that came back to its size would seem the same.
        next_ns = (second + 1) * 1_000_000_000 + randrange(1_000_000_000)
        os.utime(descriptor, ns=(next_ns, next_ns))
    os.fsync(descriptor)


def _write(descriptor: int, data: Any, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


__all__ = ["Changes", "Journal", "decode_journal", "forget", "is_announced", "recover", "rewrite"]
