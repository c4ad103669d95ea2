"""The segments of a database: who may append to which, and reading any of them.

A segment has one writer at a time, leased by flock, so the lease dies with its process. Deliveries of a process share
one leased segment; a bulk copy has its own, so that a moved mailbox lies together and concurrent moves do not mix. A
lessee appends beyond the *physical* end, never at the catalogue's idea of it: whatever an unfinished commit left
there stays unreferenced.

Content is durable before the record that names it: `write` returns after the sync.

Much at a time goes past the page cache, through one aligned buffer: for mail that is carried once, growing the cache
costs more than all the rest (`docs/explanation/speed.md`). Little at a time goes into zeros that were written ahead,
where a sync writes the content and nothing about the file.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice

import attrs

from store.content.segment import HEADER_BYTES, NewFrame, Place, check_content, encode, read_content, unreadable
from store.disk import Disk, File, direct_buffer, is_unreadable
from store.errors import Corruption, StoreBroken, StoreError
from store.frame import padded
from store.ids import ContentRef
from store.layout import Layout, segment_numbers
from store.limits import (
    DIRECT_ALIGN,
    LEASES_MAX,
    OPEN_SEGMENTS_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_GROW_BYTES,
    STAGE_BYTES,
)

GAP_BYTES = 64 * 1024
"""Between two items: less than this is read along rather than left out by a second read."""
SHARED: bytes = b""
"""The stream of deliveries and clients."""


@attrs.define
class _Lease:
    number: int
    file: File
    begin: int
    """Where this lease found the file's end."""
    end: int
    """Where what was written ends."""
    size: int
    """Where the file ends: from `end` on there are zeros."""

    def ahead(self, at: int, size: int) -> int:
        """How many zeros go with a last piece of `size` bytes at `at`, which has no room in those that are there.

        None with much at once, whose sync is of its bytes; and in all no more than content, so that who dies before
        `close` leaves no larger hole than that.
        """
        is_little = at == self.end and size <= SEGMENT_GROW_BYTES // 4
        return min(SEGMENT_GROW_BYTES, self.end - self.begin) if is_little else 0

    def close(self) -> None:
        """Somebody else may write to it, behind its content."""
        try:
            if self.size > self.end:
                with suppress(StoreError):  # then there is a hole
                    self.file.truncate(self.end)
        finally:
            self.file.close()


@attrs.define
class SegmentWriter:
    """Appends content; plain blocking code, one caller at a time. `stream`: `SHARED`, or the id of a bulk copy."""

    _disk: Disk
    _layout: Layout
    _leases: dict[bytes, _Lease] = attrs.Factory(dict)
    _full: list[tuple[int, _Lease]] = attrs.Factory(list)
    _writes: int = 0
    _staging: memoryview | None = None

    def write(self, stream: bytes, items: Sequence[NewFrame]) -> list[ContentRef]:
        """These items are in a segment, durable. Returns their places.

        Raises `StoreFull`, `StoreBroken`: nothing refers to what may have been written; trying again is safe.
        """
        self._writes += 1
        self._let_go()
        lease = self._lease(stream)
        try:
            pieces, refs = encode(items, segment=lease.number, start=lease.end)
            lease.end = self._append(lease, pieces)
        except StoreError:
            self.release(stream)  # its end is not known any more
            raise
        return refs

    def _append(self, lease: _Lease, pieces: Sequence[bytes]) -> int:
        """These pieces, and zeros up to the next `DIRECT_ALIGN`, are behind the lease's end, durable.

        Returns where they end.
        """
        buffer, fill, at = self._buffer, 0, lease.end
        for piece in pieces:
            room = len(buffer) - fill
            if len(piece) < room:  # nearly always
                buffer[fill : fill + len(piece)] = piece
                fill += len(piece)
                continue
            view = memoryview(piece)
            while len(view) >= room:
                buffer[fill:] = view[:room]
                lease.file.write(buffer, at)
                at, view, fill, room = at + len(buffer), view[room:], 0, len(buffer)
            buffer[: len(view)] = view
            fill = len(view)
        whole = padded(fill, DIRECT_ALIGN)
        ahead = lease.ahead(at, whole) if at + whole > lease.size else 0
        buffer[fill : whole + ahead] = bytes(whole + ahead - fill)
        lease.size = max(lease.size, at + whole + ahead)
        lease.file.write(buffer[: whole + ahead], at)
        lease.file.sync()
        return at + whole

    @property
    def _buffer(self) -> memoryview:
        """Made by the first who writes: most that open a database only read."""
        if self._staging is None:
            self._staging = direct_buffer(STAGE_BYTES)
        return self._staging

    def _lease(self, stream: bytes) -> _Lease:
        lease = self._leases.get(stream)
        if lease is not None and lease.end >= SEGMENT_BYTES_MAX:
            self._full.append((self._writes, self._leases.pop(stream)))
            lease = None
        if lease is None:
            lease = self._take(reuse=stream == SHARED)
        else:
            del self._leases[stream]
        self._leases[stream] = lease  # the one used last is the last one
        while len(self._leases) > LEASES_MAX:
            self.release(next(iter(self._leases)))
        return lease

    def _take(self, *, reuse: bool) -> _Lease:
        """A segment nobody writes to: a part-filled one for deliveries, a new one for a bulk copy."""
        numbers = segment_numbers(self._disk.names(self._layout.content))
        for number in reversed(numbers[-16:]) if reuse else ():
            try:
                file = self._disk.open(self._layout.segment(number))
            except FileNotFoundError:
                continue
            if file.lock(exclusive=True, wait=False):
                end = padded(file.size(), DIRECT_ALIGN)
                if end < SEGMENT_BYTES_MAX and file.is_linked():
                    return self._leased(number, file, end)
            file.close()
        number = (numbers[-1] if numbers else 0) + 1
        while True:
            try:
                file = self._disk.open(self._layout.segment(number), create=True, exclusive=True)
            except FileExistsError:
                number += 1
                continue
            if file.lock(exclusive=True, wait=False) and file.is_linked():
                return self._leased(number, file, 0)
            file.close()
            number += 1

    def _leased(self, number: int, file: File, end: int) -> _Lease:
        # Also of a segment found here: whoever made it may have died before its name was durable.
        self._disk.sync_folder(self._layout.content)
        file.bypass_cache()
        return _Lease(number, file, begin=end, end=end, size=end)

    def _let_go(self) -> None:
        """Give up full segments whose content is committed by now.

        A lease also keeps `retention` from dropping a segment that nothing refers to *yet*. The committer is at most
        one group behind the stager, so what was written two writes ago has been committed or refused.
        """
        while self._full and self._full[0][0] + 2 <= self._writes:
            self._full.pop(0)[1].close()

    def release(self, stream: bytes) -> None:
        """The stream is over: somebody else may write to its segment, once what was written is committed."""
        lease = self._leases.pop(stream, None)
        if lease is not None:
            self._full.append((self._writes, lease))

    def close(self) -> None:
        """Give up all leases; nothing is being written or committed any more."""
        with ExitStack() as each:
            for lease in [*self._leases.values(), *(lease for _, lease in self._full)]:
                each.callback(lease.close)
            self._leases.clear()
            self._full.clear()


@attrs.define
class SegmentReader:
    """Reads content, checked; keeps the last `OPEN_SEGMENTS_MAX` segments open. One caller at a time."""

    _disk: Disk
    _layout: Layout
    _open: OrderedDict[int, File] = attrs.Factory(OrderedDict)
    _bulk: tuple[int, File] | None = None
    _memory: memoryview | None = None

    def read(self, ref: Place) -> bytes:
        """An item's bytes. Raises `Corruption` where they are damaged or their segment is gone."""
        return read_content(self.file(ref.segment), ref)

    def read_each(self, refs: Sequence[Place]) -> Iterator[bytes | Corruption]:
        """Many items' bytes, each checked, or what is wrong with them. Items that lie together are read together."""
        at = 0
        while at < len(refs):
            run = refs[at : at + together(refs, at)]
            at += len(run)
            try:
                found = self._read_run(run)
            except Corruption as damage:  # it is alone, or their segment is gone
                found = [damage] * len(run)
            except StoreBroken as error:
                if not is_unreadable(error):
                    raise
                found = [self._read_alone(ref) for ref in run]
            yield from found

    def _read_alone(self, ref: Place) -> bytes | Corruption:
        """After a bulk read of it and others failed: a sector that the disk cannot read damages what lies there."""
        try:
            return self.read(ref)
        except Corruption as damage:
            return damage
        except StoreBroken as error:
            if not is_unreadable(error):
                raise
            return unreadable(self.file(ref.segment), ref)

    def _read_run(self, run: Sequence[Place]) -> list[bytes | Corruption]:
        if len(run) == 1 and run[0].size <= GAP_BYTES:
            return [self.read(run[0])]
        file = self._bulk_file(run[0].segment)
        start = run[0].offset // DIRECT_ALIGN * DIRECT_ALIGN
        end = padded(run[-1].offset + HEADER_BYTES + run[-1].size, DIRECT_ALIGN)
        if end - start > STAGE_BYTES:
            assert len(run) == 1, "what lies together fits into the buffer"
            return [self._read_large(file, run[0])]
        buffer = self._buffer
        filled = file.read_into(buffer[: end - start], start)
        found: list[bytes | Corruption] = []
        for ref in run:
            at = ref.offset + HEADER_BYTES - start
            content = bytes(buffer[at : min(at + ref.size, filled)])
            try:
                check_content(content, ref, file.path)
                found.append(content)
            except Corruption as damage:
                found.append(damage)
        return found

    def _read_large(self, file: File, ref: Place) -> bytes:
        pieces, buffer = [], self._buffer
        at, end = ref.offset + HEADER_BYTES, ref.offset + HEADER_BYTES + ref.size
        while at < end:
            start = at // DIRECT_ALIGN * DIRECT_ALIGN
            filled = file.read_into(buffer, start)
            pieces.append(bytes(buffer[at - start : min(filled, end - start)]))
            at = start + len(buffer)
        content = b"".join(pieces)
        check_content(content, ref, file.path)
        return content

    @property
    def _buffer(self) -> memoryview:
        """Made by the first bulk read."""
        if self._memory is None:
            self._memory = direct_buffer(STAGE_BYTES)
        return self._memory

    def _bulk_file(self, number: int) -> File:
        """A segment past the page cache; the last one stays open."""
        if self._bulk is None or self._bulk[0] != number:
            file = self._opened(number)
            file.bypass_cache()
            if self._bulk is not None:
                self._bulk[1].close()
            self._bulk = number, file
        return self._bulk[1]

    def read_raw(self, ref: Place) -> bytes:
        """Whatever is there in place of an item's bytes, unchecked: for quarantine."""
        return self.file(ref.segment).read(ref.size, ref.offset + HEADER_BYTES)

    def file(self, number: int) -> File:
        file = self._open.get(number)
        if file is None:
            file = self._open[number] = self._opened(number)
            if len(self._open) > OPEN_SEGMENTS_MAX:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(number)
        return file

    def _opened(self, number: int) -> File:
        path = self._layout.segment(number)
        try:
            return self._disk.open(path, readonly=True)
        except FileNotFoundError:
            raise Corruption(path=str(path), offset=0, expected="a content segment", found="no file") from None

    def close_dropped(self) -> None:
        """Segments that were deleted are not kept open: until then their room is not given back."""
        for number, file in list(self._open.items()):
            if not file.is_linked():
                self._open.pop(number).close()
        if self._bulk is not None and not self._bulk[1].is_linked():
            self._bulk[1].close()
            self._bulk = None

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
        if self._bulk is not None:
            self._bulk[1].close()
            self._bulk = None


def together(refs: Sequence[Place], at: int) -> int:
    """How many of these, from `at` on, are read with one read: as they lie one behind the other with hardly a gap."""
    segment, start = refs[at].segment, refs[at].offset
    number, end = 1, start + HEADER_BYTES + refs[at].size
    room = start // DIRECT_ALIGN * DIRECT_ALIGN + STAGE_BYTES
    for ref in islice(refs, at + 1, None):
        offset = ref.offset
        following = offset + HEADER_BYTES + ref.size
        if ref.segment != segment or not end <= offset <= end + GAP_BYTES or following > room:
            break
        number, end = number + 1, following
    return number
