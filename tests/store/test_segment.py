"""Content frames: bytes that name their item, found again with or without the catalogue."""

import random
from itertools import repeat
from pathlib import Path

import pytest

from store.content.segment import HEADER_BYTES, FoundContent, NewContent, decode_header, encode, read_content, scan
from store.disk import Disk, File
from store.errors import Corruption
from store.ids import ContentRef, FolderId, InstanceId, ItemId
from store.limits import CONTENT_ALIGN
from tests.support.bad_sector import spoil

INSTANCE = InstanceId(b"n" * 16)
SIZES = (0, 1, 63, 64, 65, 1000, 5_000_000)


def frames(*contents: bytes, segment: int = 1, start: int = 0) -> tuple[bytes, list[ContentRef]]:
    headers = [NewContent(ItemId(b"%016d" % number), FolderId(b"f" * 16), -5, 7) for number in range(len(contents))]
    pieces, refs = encode(zip(repeat(INSTANCE), headers, contents), segment=segment, start=start)
    return b"".join(pieces), refs


def test_the_format_does_not_change_silently() -> None:
    raw, refs = frames(b"content", segment=3, start=128)
    assert raw[:HEADER_BYTES].rstrip(b"\0").hex() == (
        "4d565143010000006e6e6e6e6e6e6e6e6e6e6e6e6e6e6e6e66666666666666666666666666666666"
        "303030303030303030303030303030300700000000000000fbffffffffffffff0700000000000000"
        "917e1274274fc195b27a2d2388d9568c48d3faebcb4b7713"
    )
    assert raw[HEADER_BYTES:] == b"content".ljust(CONTENT_ALIGN, b"\0")
    assert refs == [ContentRef(3, 128, 7, refs[0].content_hash)]


@pytest.fixture
def segment(tmp_path: Path) -> tuple[File, list[bytes], list[ContentRef]]:
    contents = [random.Random(size).randbytes(size) for size in SIZES]
    raw, refs = frames(*contents)
    (tmp_path / "segment").write_bytes(raw)
    return Disk().open(tmp_path / "segment"), contents, refs


def test_content_is_read_where_its_reference_says(segment: tuple[File, list[bytes], list[ContentRef]]) -> None:
    file, contents, refs = segment
    assert [read_content(file, ref) for ref in refs] == contents
    assert all(ref.offset % CONTENT_ALIGN == 0 for ref in refs)
    file.close()


def test_a_scan_finds_every_item_and_whose_it_is(segment: tuple[File, list[bytes], list[ContentRef]]) -> None:
    file, _, refs = segment
    found = [one for one in scan(file, 1) if isinstance(one, FoundContent)]
    assert [one.ref for one in found] == refs
    assert [one.item_id for one in found] == [b"%016d" % number for number in range(len(SIZES))]
    assert {(one.instance, one.folder_id, one.received_ms, one.flags) for one in found} == {
        (INSTANCE, b"f" * 16, -5, 7)
    }
    file.close()


@pytest.mark.parametrize("damaged", range(len(SIZES)))
def test_a_scan_goes_on_behind_a_damaged_header(
    segment: tuple[File, list[bytes], list[ContentRef]], damaged: int
) -> None:
    file, _, refs = segment
    file.write(b"?", refs[damaged].offset + 20)
    found = list(scan(file, 1))
    assert [one.ref for one in found if isinstance(one, FoundContent)] == refs[:damaged] + refs[damaged + 1 :]
    assert [one.offset for one in found if isinstance(one, Corruption)] == [refs[damaged].offset]
    file.close()


def test_a_scan_says_which_content_is_damaged_and_goes_on(
    segment: tuple[File, list[bytes], list[ContentRef]],
) -> None:
    file, contents, refs = segment
    file.write(bytes([contents[5][0] ^ 1]), refs[5].offset + HEADER_BYTES)
    found = list(scan(file, 1))
    assert [isinstance(one, Corruption) for one in found] == [at == 5 for at in range(len(SIZES))]
    with pytest.raises(Corruption) as caught:
        read_content(file, refs[5])
    assert caught.value.offset == refs[5].offset + HEADER_BYTES
    file.close()


def test_content_that_looks_like_a_frame_is_not_found_in_a_damaged_one_only_by_chance(tmp_path: Path) -> None:
    """An item whose bytes are a segment: behind a sound header it is skipped as content."""
    inner, _ = frames(b"forged")
    raw, refs = frames(inner, b"after")
    (tmp_path / "segment").write_bytes(raw)
    file = Disk().open(tmp_path / "segment")
    assert [one.ref for one in scan(file, 1) if isinstance(one, FoundContent)] == refs
    file.close()


def test_every_flipped_bit_of_a_header_is_noticed() -> None:
    raw, _ = frames(b"")
    used = len(raw[:HEADER_BYTES].rstrip(b"\0"))
    for bit in range(used * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_header(bytes(damaged), segment=1, offset=0) is None, f"bit {bit}"


def test_no_header_is_none() -> None:
    assert decode_header(b"", segment=1, offset=0) is None
    assert decode_header(bytes(HEADER_BYTES), segment=1, offset=0) is None


def test_a_scan_finds_what_was_appended_to_a_torn_end(tmp_path: Path) -> None:
    """Who wrote the header died before its content; the next one went on from where the file ended."""
    lost, _ = frames(bytes(5000))
    for there in range(0, 1024, 64):
        end = HEADER_BYTES + there
        after, refs = frames(b"kept", b"", b"kept too" * 99, start=end)
        path = tmp_path / "1.seg"
        path.write_bytes(lost[:end] + after)
        file = Disk().open(path)
        found = list(scan(file, 1))
        file.close()
        assert [one.ref for one in found if isinstance(one, FoundContent)] == refs
        assert [one.offset for one in found if isinstance(one, Corruption)] == [0]


@pytest.mark.parametrize("at", [0, 40_000, 100_000], ids=["header", "content", "the next header's page"])
def test_a_scan_goes_on_behind_a_sector_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    raw, refs = frames(*(bytes([number]) * 100_000 for number in range(4)))
    (tmp_path / "segment").write_bytes(raw)
    spoil(monkeypatch, tmp_path / "segment", refs[1].offset + at)
    file = Disk().open(tmp_path / "segment")
    found = list(scan(file, 1))
    file.close()
    lost = {0: refs[1:2], 40_000: refs[1:2], 100_000: refs[1:3]}[at]
    assert [one.ref for one in found if isinstance(one, FoundContent) and one.ref not in refs[:1]] == [
        ref for ref in refs[1:] if ref not in lost
    ]
    assert any("cannot read" in one.found for one in found if isinstance(one, Corruption))
