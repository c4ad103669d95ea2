"""A content frame: an item's bytes with a header that names the item, so that content alone tells whose it is.

    magic 4 | version 2 | reserved 2 | instance 16 | folder 16 | item 16 | size 8 | received_ms 8 | flags 4
    | reserved 4 | xxh3_128 of the content 16 | xxh3_64 of the header so far 8 | zeros to 128 | content | zeros to 64

Frames lie at multiples of 64 bytes, so a scan finds the next one behind any damage; what was written together ends
with zeros to the next multiple of 4096. Flags and folder are those at arrival: the catalogue has the present ones,
and a rebuild from content alone says so.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import attrs
import xxhash

from store.disk import File
from store.errors import Corruption
from store.ids import ContentRef, FolderId, InstanceId, ItemId
from store.limits import CONTENT_ALIGN, CONTENT_BYTES_MAX, DIRECT_ALIGN

MAGIC = b"MVQC"
VERSION = 1
HEADER_BYTES = 128
_HEADER = struct.Struct("<4sHH16s16s16sQqII16sQ")
_HEADER_BODY = struct.Struct("<4sHH16s16s16sQqII16s")
_HEADER_END = struct.Struct(f"<Q{HEADER_BYTES - _HEADER.size}x")
_PADDING = [bytes(size) for size in range(CONTENT_ALIGN)]
_SCAN_BYTES = 4 * 1024 * 1024


class NewContent(NamedTuple):
    """An item's bytes on their way into a segment. A tuple, for they come by the thousand."""

    item_id: ItemId
    folder_id: FolderId
    received_ms: int
    flags: int
    content: bytes


@attrs.frozen
class FoundContent:
    """A content frame as a scan finds it."""

    instance: InstanceId
    folder_id: FolderId
    item_id: ItemId
    received_ms: int
    flags: int
    ref: ContentRef


def padded(size: int, to: int = CONTENT_ALIGN) -> int:
    """`size` rounded up to a multiple of `to`."""
    return (size + to - 1) // to * to


def encode(
    instance: InstanceId, items: Sequence[NewContent], *, segment: int, start: int
) -> tuple[list[bytes], list[ContentRef]]:
    """Frames for these items, in pieces to be written one after the other at `start` of `segment`, and where each
    frame is."""
    assert start % CONTENT_ALIGN == 0
    pieces: list[bytes] = []
    refs: list[ContentRef] = []
    offset = start
    for item_id, folder_id, received_ms, flags, content in items:
        size = len(content)
        assert size <= CONTENT_BYTES_MAX, "checked where the item came in"
        content_hash = xxhash.xxh3_128_digest(content)
        header = _HEADER_BODY.pack(
            MAGIC, VERSION, 0, instance, folder_id, item_id, size, received_ms, flags, 0, content_hash
        )
        pieces += (header, _HEADER_END.pack(xxhash.xxh3_64_intdigest(header)), content, _PADDING[-size % CONTENT_ALIGN])
        refs.append(ContentRef(segment, offset, size, content_hash))
        offset += HEADER_BYTES + size + -size % CONTENT_ALIGN
    return pieces, refs


def decode_header(raw: bytes, *, segment: int, offset: int) -> FoundContent | None:
    """The frame whose header this is, or None where it is none."""
    if len(raw) < HEADER_BYTES or not raw.startswith(MAGIC):
        return None
    _, version, _, instance, folder, item, size, received, flags, _, content_hash, check = _HEADER.unpack_from(raw)
    if check != xxhash.xxh3_64_intdigest(raw[: _HEADER.size - 8]) or version != VERSION or size > CONTENT_BYTES_MAX:
        return None
    return FoundContent(
        InstanceId(instance),
        FolderId(folder),
        ItemId(item),
        received,
        flags,
        ContentRef(segment, offset, size, content_hash),
    )


def read_content(file: File, ref: ContentRef) -> bytes:
    """An item's bytes, checked.

    Raises:
        Corruption: the bytes are not those that were written.
    """
    content = file.read(ref.size, ref.offset + HEADER_BYTES)
    check_content(content, ref, file.path)
    return content


def check_content(content: bytes, ref: ContentRef, path: Path) -> None:
    """Raises `Corruption` where these bytes, read from `path`, are not those that were written."""
    if len(content) != ref.size:
        raise Corruption(
            path=str(path), offset=ref.offset, expected=f"{ref.size} bytes of content", found=f"{len(content)}"
        )
    if xxhash.xxh3_128_digest(content) != ref.content_hash:
        raise Corruption(
            path=str(path),
            offset=ref.offset + HEADER_BYTES,
            expected=f"content with xxh3_128 {ref.content_hash.hex()}",
            found=xxhash.xxh3_128_hexdigest(content),
        )


def scan(file: File, segment: int) -> Iterator[FoundContent | Corruption]:
    """Every content frame in a segment, in order, found without the catalogue; damaged content as `Corruption`.

    What a crash left unfinished looks the same as damage: only the catalogue knows which frames were acknowledged.
    """
    size = file.size()
    offset = 0
    while offset + HEADER_BYTES <= size:
        found = decode_header(file.read(HEADER_BYTES, offset), segment=segment, offset=offset)
        if found is None:
            padding_end = min(padded(offset + 1, DIRECT_ALIGN), size)
            if not file.read(padding_end - offset, offset).strip(b"\0"):
                offset = padding_end  # the end of what was written together
                continue
            following = _next_frame(file, segment, offset + CONTENT_ALIGN, size)
            yield Corruption(
                path=str(file.path),
                offset=offset,
                expected="a content frame",
                found=f"{following - offset} other bytes",
            )
            offset = following
            continue
        try:
            read_content(file, found.ref)
            yield found
        except Corruption as damage:
            yield damage
        offset += HEADER_BYTES + padded(found.ref.size)


def _next_frame(file: File, segment: int, offset: int, size: int) -> int:
    """Where the next whole frame header is, or the end of the file."""
    while offset < size:
        window = file.read(_SCAN_BYTES + HEADER_BYTES, offset)
        at = window.find(MAGIC)
        while 0 <= at < _SCAN_BYTES:
            if (offset + at) % CONTENT_ALIGN == 0 and decode_header(window[at:], segment=segment, offset=offset + at):
                return offset + at
            at = window.find(MAGIC, at + 1)
        offset += _SCAN_BYTES
    return size
