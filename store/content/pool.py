"""The segments of a database: who may append to which, and reading any of them.

A segment has one writer at a time, leased by flock, so the lease dies with its process. Deliveries of a process share
one leased segment; a bulk copy has its own, so that a moved mailbox lies together and concurrent moves do not mix. A
lessee appends beyond the *physical* end, never at the catalogue's idea of it: whatever an unfinished commit left
there stays unreferenced.

Content is durable before the record that names it: `write` returns after the sync.
"""

from collections import OrderedDict
from collections.abc import Sequence

import attrs

from store.content.segment import HEADER_BYTES, NewContent, encode, read_content
from store.disk import Disk, File
from store.errors import Corruption, StoreError
from store.ids import ContentRef, InstanceId
from store.layout import Layout, segment_numbers
from store.limits import CONTENT_ALIGN, LEASES_MAX, OPEN_SEGMENTS_MAX, SEGMENT_BYTES_MAX

SHARED: bytes = b""
"""The stream of deliveries and clients."""


@attrs.define
class _Lease:
    number: int
    file: File
    end: int


@attrs.define
class SegmentWriter:
    """Appends content; plain blocking code, one caller at a time. `stream`: `SHARED`, or the id of a bulk copy."""

    _disk: Disk
    _layout: Layout
    _leases: dict[bytes, _Lease] = attrs.Factory(dict)
    _full: list[tuple[int, _Lease]] = attrs.Factory(list)
    _writes: int = 0

    def write(self, stream: bytes, groups: Sequence[tuple[InstanceId, Sequence[NewContent]]]) -> list[list[ContentRef]]:
        """The content of these groups is in segments, durable. Returns each group's places.

        Raises `StoreFull`, `StoreBroken`: nothing refers to what may have been written; trying again is safe.
        """
        self._writes += 1
        self._let_go()
        lease = self._lease(stream)
        try:
            pieces: list[bytes] = []
            places: list[list[ContentRef]] = []
            end = lease.end
            for instance, items in groups:
                raw, refs = encode(instance, items, segment=lease.number, start=end)
                pieces.append(raw)
                places.append(refs)
                end += len(raw)
            lease.file.write(b"".join(pieces), lease.end)
            lease.file.sync()
        except StoreError:
            self.release(stream)  # its end is not known any more
            raise
        lease.end = end
        return places

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
                end = (file.size() + CONTENT_ALIGN - 1) // CONTENT_ALIGN * CONTENT_ALIGN
                if end < SEGMENT_BYTES_MAX and file.is_linked():
                    # Whoever made it may have died before its name was durable.
                    self._disk.sync_folder(self._layout.content)
                    return _Lease(number, file, end)
            file.close()
        number = (numbers[-1] if numbers else 0) + 1
        while True:
            try:
                file = self._disk.open(self._layout.segment(number), create=True, exclusive=True)
            except FileExistsError:
                number += 1
                continue
            if file.lock(exclusive=True, wait=False) and file.is_linked():
                self._disk.sync_folder(self._layout.content)
                return _Lease(number, file, 0)
            file.close()
            number += 1

    def _let_go(self) -> None:
        """Give up full segments whose content is committed by now.

        A lease also keeps `retention` from dropping a segment that nothing refers to *yet*. The committer is at most
        one group behind the stager, so what was written two writes ago has been committed or refused.
        """
        while self._full and self._full[0][0] + 2 <= self._writes:
            self._full.pop(0)[1].file.close()

    def release(self, stream: bytes) -> None:
        """The stream is over: somebody else may write to its segment, once what was written is committed."""
        lease = self._leases.pop(stream, None)
        if lease is not None:
            self._full.append((self._writes, lease))

    def close(self) -> None:
        """Give up all leases; nothing is being written or committed any more."""
        for lease in [*self._leases.values(), *(lease for _, lease in self._full)]:
            lease.file.close()
        self._leases.clear()
        self._full.clear()


@attrs.define
class SegmentReader:
    """Reads content, checked; keeps the last `OPEN_SEGMENTS_MAX` segments open. One caller at a time."""

    _disk: Disk
    _layout: Layout
    _open: OrderedDict[int, File] = attrs.Factory(OrderedDict)

    def read(self, ref: ContentRef) -> bytes:
        """An item's bytes. Raises `Corruption` where they are damaged or their segment is gone."""
        return read_content(self.file(ref.segment), ref)

    def read_raw(self, ref: ContentRef) -> bytes:
        """Whatever is there in place of an item's bytes, unchecked: for quarantine."""
        return self.file(ref.segment).read(ref.size, ref.offset + HEADER_BYTES)

    def file(self, number: int) -> File:
        file = self._open.get(number)
        if file is None:
            path = self._layout.segment(number)
            try:
                file = self._disk.open(path, readonly=True)
            except FileNotFoundError:
                raise Corruption(path=str(path), offset=0, expected="a content segment", found="no file") from None
            self._open[number] = file
            if len(self._open) > OPEN_SEGMENTS_MAX:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(number)
        return file

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
