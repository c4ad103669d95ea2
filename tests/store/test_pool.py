"""Leases: one writer to a segment, beyond its physical end, for as long as its content is not committed."""

import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.content.pool import SHARED, SegmentReader, SegmentWriter
from store.content.segment import HEADER_BYTES, FoundContent, NewContent, scan
from store.disk import Disk
from store.errors import Corruption, StoreFull
from store.ids import ContentRef, FolderId, InstanceId, ItemId
from store.layout import Layout
from store.limits import (
    CONTENT_ALIGN,
    DIRECT_ALIGN,
    LEASES_MAX,
    OPEN_SEGMENTS_MAX,
    SEGMENT_GROW_BYTES,
    STAGE_BYTES,
)
from tests.support.bad_sector import spoil

INSTANCE = InstanceId(b"n" * 16)
HEADER = NewContent(ItemId(b"i" * 16), FolderId(b"f" * 16), 0, 0)
Make = Callable[[], SegmentWriter]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.content.mkdir()
    return layout


@pytest.fixture
def make(layout: Layout) -> Iterator[Make]:
    writers: list[SegmentWriter] = []

    def make() -> SegmentWriter:
        writers.append(SegmentWriter(Disk(), layout))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


def write(writer: SegmentWriter, *contents: bytes, stream: bytes = SHARED) -> list[ContentRef]:
    return writer.write(stream, [(INSTANCE, HEADER, content) for content in contents])


def test_what_is_written_is_read(make: Make, layout: Layout) -> None:
    writer, reader = make(), SegmentReader(Disk(), layout)
    refs = [*write(writer, b"one", b""), *write(writer, b"three" * 1000)]
    assert [reader.read(ref) for ref in refs] == [b"one", b"", b"three" * 1000]
    reader.close()


@pytest.mark.parametrize("gap", [0, 1, STAGE_BYTES])
def test_items_are_read_together_as_they_are_read_one_by_one(make: Make, layout: Layout, gap: int) -> None:
    """Small and large ones, larger than the buffer too, in order, out of order, with gaps, and one twice."""
    writer, reader = make(), SegmentReader(Disk(), layout)
    sizes = (0, 1, 5000, 70_000, STAGE_BYTES - 200, 3, STAGE_BYTES, 2 * STAGE_BYTES + 5, 64, 100_000)
    refs: list[ContentRef] = []
    for size in sizes:
        refs += write(writer, random.Random(size).randbytes(size))
        if gap:
            write(writer, bytes(gap))
    for order in (refs, refs[::-1], [*refs, *refs], refs[1:2], []):
        assert list(reader.read_each(order)) == [reader.read(ref) for ref in order]
    reader.close()


def test_a_damaged_item_among_many_is_told_apart_from_its_neighbours(make: Make, layout: Layout) -> None:
    writer, reader = make(), SegmentReader(Disk(), layout)
    refs = write(writer, *(random.Random(n).randbytes(20_000) for n in range(9)))
    with layout.segment(1).open("r+b") as file:
        file.seek(refs[4].offset + HEADER_BYTES + 77)
        file.write(b"?!")
    missing = refs[8]._replace(segment=7)
    found = list(reader.read_each([*refs, missing]))
    assert [isinstance(one, Corruption) for one in found] == [at in (4, 9) for at in range(10)]
    assert isinstance(found[4], Corruption)
    assert found[4].offset == refs[4].offset + HEADER_BYTES
    reader.close()


@pytest.mark.parametrize("size", [20_000, 80_000, 2 * STAGE_BYTES])
def test_a_sector_that_cannot_be_read_damages_the_item_that_lies_there(
    make: Make, layout: Layout, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Read in bulk or alone, through the page cache or past it."""
    writer, reader = make(), SegmentReader(Disk(), layout)
    contents = [random.Random(n).randbytes(size) for n in range(5)]
    refs = write(writer, *contents)
    spoil(monkeypatch, layout.segment(1), refs[2].offset + size // 2)
    for order in (refs, refs[2:3]):
        for ref, found in zip(order, reader.read_each(order), strict=True):
            if ref == refs[2]:
                assert isinstance(found, Corruption)
                assert "cannot read" in found.found
            else:
                assert found == contents[refs.index(ref)]
    reader.close()


def test_a_segment_that_ends_early_damages_what_lay_beyond(make: Make, layout: Layout) -> None:
    writer, reader = make(), SegmentReader(Disk(), layout)
    refs = write(writer, *(random.Random(n).randbytes(20_000) for n in range(9)))
    os.truncate(layout.segment(1), refs[5].offset + HEADER_BYTES + 100)
    found = list(reader.read_each(refs))
    assert [isinstance(one, Corruption) for one in found] == [at >= 5 for at in range(9)]
    reader.close()


def test_what_is_written_together_begins_and_ends_on_a_page(make: Make, layout: Layout) -> None:
    writer = make()
    refs = [write(writer, b"x" * number)[0] for number in range(3)]
    assert [ref.offset for ref in refs] == [0, DIRECT_ALIGN, 2 * DIRECT_ALIGN]
    assert scanned(layout, 1) == refs, "the padding is no damage"


def scanned(layout: Layout, number: int) -> list[object]:
    """What is found in a segment without the catalogue."""
    file = Disk().open(layout.segment(number))
    found: list[object] = [one.ref if isinstance(one, FoundContent) else one for one in scan(file, number)]
    file.close()
    return found


def test_little_at_a_time_goes_into_zeros_that_were_written_ahead(make: Make, layout: Layout) -> None:
    """In steps, each at most as long as all the content before it, up to `SEGMENT_GROW_BYTES`."""
    writer, sizes, refs = make(), [0], []
    for number in range(200):
        refs += write(writer, b"%d" % number * 1000)
        if (size := layout.segment(1).stat().st_size) != sizes[-1]:
            assert size - sizes[-1] <= SEGMENT_GROW_BYTES + DIRECT_ALIGN
            assert size <= 2 * (refs[-1].offset + DIRECT_ALIGN)
            sizes.append(size)
    assert len(sizes) < 15, "most found room"
    assert scanned(layout, 1) == refs, "zeros are no damage"
    writer.close()
    assert layout.segment(1).stat().st_size == refs[-1].offset + DIRECT_ALIGN, "none are left behind"


def test_who_dies_leaves_a_hole_no_larger_than_what_it_wrote(make: Make, layout: Layout) -> None:
    writer, refs = make(), []
    for _ in range(5):
        lost, begin = make(), layout.segment(1).stat().st_size if refs else 0
        for content in (b"a", b"b", b"c", b"d"):
            refs += write(lost, content)
        hole = layout.segment(1).stat().st_size - begin - 4 * DIRECT_ALIGN
        assert 0 < hole <= 4 * DIRECT_ALIGN
        lost._leases[SHARED].file.close()  # as the death of its process does
        lost._leases.clear()
    refs += write(writer, b"after them all")
    assert {ref.segment for ref in refs} == {1}
    assert scanned(layout, 1) == refs


def test_much_at_a_time_is_written_without_zeros(make: Make, layout: Layout) -> None:
    writer = make()
    for number in range(1, 4):
        (ref,) = write(writer, b"x" * SEGMENT_GROW_BYTES)
        assert layout.segment(1).stat().st_size == number * (SEGMENT_GROW_BYTES + DIRECT_ALIGN), ref


def test_a_file_system_that_refuses_direct_calls_is_written_through_the_cache(
    make: Make, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some take the flag and refuse the call."""
    real, refused = os.pwrite, []

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "not here")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    writer, reader = make(), SegmentReader(Disk(), layout)
    refs = [*write(writer, b"one"), *write(writer, b"two")]
    assert [reader.read(ref) for ref in refs] == [b"one", b"two"]
    assert refused in ([0], []), "asked once, if this file system takes the flag at all"
    reader.close()


def test_two_processes_never_write_to_one_segment(make: Make) -> None:
    one, other = make(), make()
    segments = [write(writer, b"x")[0].segment for writer in (one, other, one, other)]
    assert segments == [1, 2, 1, 2]


def test_a_copy_has_a_segment_of_its_own(make: Make) -> None:
    writer = make()
    segments = [write(writer, b"x", stream=stream)[0].segment for stream in (SHARED, b"a", b"b", b"a", SHARED)]
    assert segments == [1, 2, 3, 2, 1]


def test_a_part_filled_segment_is_taken_up_beyond_its_physical_end(make: Make, layout: Layout) -> None:
    first = make()
    write(first, b"one")
    first.close()
    with layout.segment(1).open("ab") as file:
        file.write(b"torn")
    size = layout.segment(1).stat().st_size
    (ref,) = write(make(), b"two")
    assert ref.segment == 1
    assert ref.offset >= size
    assert ref.offset % CONTENT_ALIGN == 0


def test_a_full_segment_is_left(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.content.pool.SEGMENT_BYTES_MAX", 2 * DIRECT_ALIGN)
    writer = make()
    assert [write(writer, b"x" * 100)[0].segment for _ in range(5)] == [1, 1, 2, 2, 3]


def test_a_segment_that_is_left_stays_leased_until_its_content_is_committed(
    make: Make, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committer is at most one group behind: two writes later it has been committed or refused."""
    monkeypatch.setattr("store.content.pool.SEGMENT_BYTES_MAX", 200)
    writer, file = make(), None
    write(writer, b"x" * 100)
    held = []
    for _ in range(4):
        file = Disk().open(layout.segment(1))
        held.append(not file.lock(exclusive=True, wait=False))
        file.close()
        write(writer, b"x" * 100)
    assert held == [True, True, True, False]


def test_a_released_stream_goes_on_elsewhere(make: Make) -> None:
    writer = make()
    write(writer, b"x", stream=b"a")
    writer.release(b"a")
    writer.release(b"never there")
    assert write(writer, b"x", stream=b"a")[0].segment == 2


def test_leases_are_bounded_and_the_one_used_longest_ago_goes_first(make: Make) -> None:
    writer = make()
    write(writer, b"x")
    for number in range(3 * LEASES_MAX):
        write(writer, b"x", stream=b"%d" % number)
        assert len(writer._leases) <= LEASES_MAX
        if number % 5 == 0:
            assert write(writer, b"x")[0].segment == 1  # in use all the time, and kept
    assert len(writer._full) <= 3


def test_a_failed_write_leaves_its_segment_and_the_next_one_works(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make()
    write(writer, b"one")
    lease = writer._leases[SHARED]

    def full(*_: object) -> None:
        raise StoreFull(path="x", why="the disk is full")

    monkeypatch.setattr(lease.file, "write", full)
    with pytest.raises(StoreFull):
        write(writer, b"two")
    assert write(writer, b"three")[0].segment == 2


def test_a_failed_write_gives_back_what_it_took(make: Make, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make()
    write(writer, b"one")
    file = writer._leases[SHARED].file

    def full() -> None:
        raise StoreFull(path="x", why="the disk is full")

    monkeypatch.setattr(file, "sync", full)
    with pytest.raises(StoreFull):
        write(writer, b"two" * SEGMENT_GROW_BYTES)
    assert layout.segment(1).stat().st_size > DIRECT_ALIGN
    writer.close()
    assert layout.segment(1).stat().st_size == DIRECT_ALIGN


def test_a_segment_deleted_between_open_and_lock_is_not_used(make: Make, layout: Layout) -> None:
    first = make()
    write(first, b"one")
    first.close()

    class Races(Disk):
        def open(self, path: Path, **how: bool):  # type: ignore[no-untyped-def]
            file = super().open(path, **how)
            if path == layout.segment(1) and path.exists():
                path.unlink()
            return file

    writer = SegmentWriter(Races(), layout)
    (ref,) = write(writer, b"two")
    assert layout.segment(ref.segment).exists()
    writer.close()


def test_a_reader_keeps_a_bounded_number_of_segments_open(make: Make, layout: Layout) -> None:
    writer, reader = make(), SegmentReader(Disk(), layout)
    refs = [write(writer, b"%d" % number, stream=b"%d" % number)[0] for number in range(OPEN_SEGMENTS_MAX + 5)]
    for _ in range(2):
        assert [reader.read(ref) for ref in refs] == [b"%d" % number for number in range(len(refs))]
        assert len(reader._open) <= OPEN_SEGMENTS_MAX
    reader.close()


def test_a_missing_segment_is_corruption(layout: Layout) -> None:
    reader = SegmentReader(Disk(), layout)
    with pytest.raises(Corruption, match="expected a content segment, found no file"):
        reader.read(ContentRef(9, 0, 1, b""))
