"""Frames of the log: read back only in their own place, and every other piece is located or refused in words."""

import random

import pytest

from store.frame import HEADER_BYTES, Damage, Frame, FrameKind, decode, encode, padded, payload_length
from store.ids import LogHead, LogPosition, Signature
from store.limits import BLOCK, FRAME_BYTES_MAX

SIGNATURE = Signature(b"s" * 16)
HEAD = LogHead(LogPosition(3, 4 * BLOCK), b"c" * 16)


def test_the_format_does_not_change_silently() -> None:
    raw, after = encode(FrameKind.GROUP, b"payload", signature=SIGNATURE, head=HEAD)
    assert raw[:HEADER_BYTES].hex() == (
        "4d56514601000100070000000300000073737373737373737373737373737373"
        + "0008000000000000"
        + "7b8d2d5bf061fe32d29a7a704c281c654d8346488eb15ea0f22bb993846bd7e6"
    )
    assert after.position == LogPosition(3, 5 * BLOCK)


@pytest.mark.parametrize("size", [0, 1, BLOCK - HEADER_BYTES, BLOCK - HEADER_BYTES + 1, 5000])
def test_a_frame_comes_back_whole_and_fills_whole_blocks(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    raw, after = encode(FrameKind.GROUP, payload, signature=SIGNATURE, head=HEAD)
    assert len(raw) % BLOCK == 0
    assert len(raw) == padded(HEADER_BYTES + size)
    found = decode(raw + b"whatever follows", signature=SIGNATURE, head=HEAD)
    assert isinstance(found, Frame)
    assert (found.payload, found.start, found.after, found.raw) == (payload, HEAD.position, after, raw)


def test_a_seal_has_no_payload_and_chains_on() -> None:
    raw, after = encode(FrameKind.SEAL, b"", signature=SIGNATURE, head=HEAD)
    found = decode(raw, signature=SIGNATURE, head=HEAD)
    assert isinstance(found, Frame)
    assert found.kind is FrameKind.SEAL
    assert after.chain != HEAD.chain


def test_every_flipped_bit_is_noticed() -> None:
    raw, _ = encode(FrameKind.GROUP, b"payload" * 10, signature=SIGNATURE, head=HEAD)
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        assert isinstance(decode(bytes(damaged), signature=SIGNATURE, head=HEAD), Damage), f"bit {bit}"


def test_every_cut_is_noticed() -> None:
    raw, _ = encode(FrameKind.GROUP, b"payload" * 100, signature=SIGNATURE, head=HEAD)
    for size in range(1, len(raw)):
        assert isinstance(decode(raw[:size], signature=SIGNATURE, head=HEAD), Damage), f"{size} bytes"


def test_where_nothing_was_written_there_is_nothing() -> None:
    assert decode(b"", signature=SIGNATURE, head=HEAD) is None
    assert decode(bytes(10), signature=SIGNATURE, head=HEAD) is None
    assert decode(bytes(BLOCK), signature=SIGNATURE, head=HEAD) is None


@pytest.mark.parametrize(
    ("signature", "head", "words"),
    [
        (Signature(b"o" * 16), HEAD, "another database"),
        (SIGNATURE, LogHead(LogPosition(3, 5 * BLOCK), HEAD.chain), "belongs to 00000003:2048"),
        (SIGNATURE, LogHead(LogPosition(4, 4 * BLOCK), HEAD.chain), "belongs to 00000003:2048"),
        (SIGNATURE, LogHead(HEAD.position, b"d" * 16), "not chained"),
    ],
)
def test_a_frame_from_elsewhere_is_located(signature: Signature, head: LogHead, words: str) -> None:
    raw, _ = encode(FrameKind.GROUP, b"payload", signature=SIGNATURE, head=HEAD)
    found = decode(raw, signature=signature, head=head)
    assert isinstance(found, Damage)
    assert words in found.why


def test_a_header_promises_its_payload() -> None:
    raw, _ = encode(FrameKind.GROUP, b"payload", signature=SIGNATURE, head=HEAD)
    assert payload_length(raw, signature=SIGNATURE, position=HEAD.position) == 7
    found = payload_length(b"garbage!" * 100, signature=SIGNATURE, position=HEAD.position)
    assert isinstance(found, Damage)
    assert "in place of a frame" in found.why


def test_a_payload_larger_than_a_frame_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        encode(FrameKind.GROUP, bytes(FRAME_BYTES_MAX + 1), signature=SIGNATURE, head=HEAD)
