"""The bytes round one record of the log: a header that says where it belongs, and a digest over all before it.

    magic 4 | version 2 | kind 2 | payload length 4 | generation 4 | signature 16 | own offset 8
    | xxh3_64 of the payload 8 | chain 16 | xxh3_64 of the header so far 8 | payload | zeros to the next block

A missing, repeated, recycled or foreign frame is *located*: its header names signature, generation and offset, and
`chain` is xxh3_128 of the chain before it and this header, so a frame is valid only behind exactly what it was
written behind. xxh3 guards against accidents, not against an adversary with write access to the disk.
"""

import struct
from enum import IntEnum

import attrs
import xxhash

from store.ids import LogHead, LogPosition, Signature
from store.limits import BLOCK, FRAME_BYTES_MAX

MAGIC = b"MVQF"
VERSION = 1
_BODY = struct.Struct("<4sHHII16sQQ")
_HEADER = struct.Struct("<4sHHII16sQQ16sQ")
HEADER_BYTES = _HEADER.size


class FrameKind(IntEnum):
    """What a frame is."""

    GROUP = 1
    """Transactions committed together; msgpack."""
    SEAL = 2
    """The last frame of a generation: the next one goes on. No payload."""


@attrs.frozen
class Frame:
    """A frame as read: its payload, where the next one starts, and the bytes it had (for rewriting it)."""

    kind: FrameKind
    payload: bytes
    start: LogPosition
    after: LogHead
    raw: bytes


@attrs.frozen
class Damage:
    """No valid frame here; why, in words. `is_newer`: it is one, of a kind that this code does not know."""

    why: str
    is_newer: bool = False


def padded(size: int, to: int = BLOCK) -> int:
    """`size` rounded up to whole blocks."""
    return (size + to - 1) // to * to


def encode(kind: FrameKind, payload: bytes, *, signature: Signature, head: LogHead) -> tuple[bytes, LogHead]:
    """The frame's bytes for this place in the log, and the head behind it."""
    assert len(payload) <= FRAME_BYTES_MAX, "the committer splits groups before this"
    position = head.position
    body = _BODY.pack(
        MAGIC,
        VERSION,
        kind,
        len(payload),
        position.generation,
        signature,
        position.offset,
        xxhash.xxh3_64_intdigest(payload),
    )
    chain = xxhash.xxh3_128_digest(head.chain + body)
    header = body + chain
    raw = b"".join((header, struct.pack("<Q", xxhash.xxh3_64_intdigest(header)), payload))
    size = padded(len(raw))
    after = LogHead(LogPosition(position.generation, position.offset + size), chain)
    return raw.ljust(size, b"\0"), after


def payload_length(header: bytes, *, signature: Signature, position: LogPosition) -> int | Damage | None:
    """What a header promises for this place: payload bytes; None where nothing was written; or why it is no header."""
    if len(header) < HEADER_BYTES:
        return None if not header.strip(b"\0") else Damage("the file ends inside a frame header")
    if not header[:HEADER_BYTES].strip(b"\0"):
        return None
    magic, version, kind, length, generation, signed, offset, _, _, check = _HEADER.unpack_from(header)
    if magic != MAGIC:
        return Damage(f"the bytes {magic.hex()} in place of a frame")
    if check != xxhash.xxh3_64_intdigest(header[: HEADER_BYTES - 8]):
        return Damage("a frame header with a wrong checksum")
    if signed != signature:
        return Damage(f"a frame of another database or timeline ({signed.hex()[:8]})")
    if (generation, offset) != (position.generation, position.offset):
        return Damage(f"a frame that belongs to {LogPosition(generation, offset)}")
    if version != VERSION or kind not in FrameKind._value2member_map_ or length > FRAME_BYTES_MAX:
        return Damage(f"a frame of format version {version}, kind {kind} and length {length}", is_newer=True)
    return int(length)


def decode(raw: bytes, *, signature: Signature, head: LogHead) -> Frame | Damage | None:
    """The frame that starts `raw`, if it is the one that belongs behind `head`; None where nothing was written."""
    length = payload_length(raw[:HEADER_BYTES], signature=signature, position=head.position)
    if not isinstance(length, int):
        return length
    _, _, kind, _, _, _, _, checksum, chain, _ = _HEADER.unpack_from(raw)
    payload = raw[HEADER_BYTES : HEADER_BYTES + length]
    if len(payload) < length:
        return Damage(f"{length - len(payload)} bytes missing at the end of a frame")
    if xxhash.xxh3_64_intdigest(payload) != checksum:
        return Damage("a frame whose payload has a wrong checksum")
    if xxhash.xxh3_128_digest(head.chain + raw[: _BODY.size]) != chain:
        return Damage("a frame that is not chained to the one before it")
    size = padded(HEADER_BYTES + length)
    if len(raw) < size or raw[HEADER_BYTES + length : size].strip(b"\0"):
        return Damage("a frame whose padding is not zero")
    after = LogHead(LogPosition(head.position.generation, head.position.offset + size), chain)
    return Frame(FrameKind(kind), payload, head.position, after, raw[:size])
