"""A generation's first block, and how a generation appears: whole, by a rename."""

import struct
from pathlib import Path

import pytest

from store.disk import Disk
from store.errors import Corruption
from store.ids import LogPosition, Signature
from store.layout import Layout
from store.limits import BLOCK
from store.log.generation import GenerationHeader, decode_header, make_generation

HEADER = GenerationHeader(
    signature=Signature(b"s" * 16),
    number=7,
    created_ms=1_700_000_000_000,
    chain=b"c" * 16,
    parent=Signature(b"p" * 16),
    parent_position=LogPosition(3, 512),
)


def test_a_header_comes_back() -> None:
    raw = HEADER.encode()
    assert len(raw) == BLOCK
    assert decode_header(raw, path="x") == HEADER
    assert HEADER.head.position == LogPosition(7, BLOCK)


def test_the_format_does_not_change_silently() -> None:
    assert HEADER.encode().rstrip(b"\0").hex() == (
        "4d56514c0100000007000000737373737373737373737373737373730068e5cf8b01000063636363"
        "63636363636363636363636370707070707070707070707070707070030000000002000000000000"
        "612ee79f0fdf4266"
    )


def test_every_flipped_bit_is_noticed() -> None:
    raw = HEADER.encode()
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corruption):
            decode_header(bytes(damaged), path="x")


@pytest.mark.parametrize("size", [0, 4, 100, BLOCK - 1])
def test_a_short_header_is_corruption(size: int) -> None:
    with pytest.raises(Corruption, match=f"found {size} bytes"):
        decode_header(HEADER.encode()[:size], path="x")


def test_a_newer_format_is_named() -> None:
    import xxhash

    raw = bytearray(HEADER.encode())
    raw[4:6] = struct.pack("<H", 2)
    end = len(bytes(raw).rstrip(b"\0"))
    body_bytes = next(
        at
        for at in range(end - 8, end + 1)
        if xxhash.xxh3_64_intdigest(HEADER.encode()[:at]) == struct.unpack_from("<Q", HEADER.encode(), at)[0]
    )
    raw[body_bytes : body_bytes + 8] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(raw[:body_bytes])))
    with pytest.raises(Corruption, match="expected format version 1, found 2"):
        decode_header(bytes(raw), path="x")


def test_a_generation_appears_whole_whatever_was_left_of_an_earlier_try(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.log.mkdir()
    layout.generation(7).with_suffix(".new").write_bytes(b"half")
    make_generation(Disk(), layout, HEADER)
    assert [path.name for path in layout.log.iterdir()] == ["00000007.log"]
    assert decode_header(layout.generation(7).read_bytes(), path="x") == HEADER
