"""A content frame: an item's bytes with a header that names the item, so that content alone tells whose it is.

    magic 4 | version 2 | reserved 2 | instance 16 | folder 16 | item 16 | size 8 | received_ms 8 | flags 4
    | reserved 4 | xxh3_128 of the content 16 | xxh3_64 of the header so far 8 | zeros to 128 | content | zeros to 64

Frames lie at multiples of 64 bytes, so a scan finds the next one behind any damage. Flags and folder are those at
arrival: the catalogue has the present ones, and a rebuild from content alone says so.
"""

import struct
from collections.abc import Iterator, Sequence

import attrs
import xxhash

from store.disk import File
from store.errors import Corruption
from store.ids import ContentRef, FolderId, InstanceId, ItemId
from store.limits import CONTENT_ALIGN, CONTENT_BYTES_MAX

MAGIC = b"MVQC"
VERSION = 1
HEADER_BYTES = 128
_HEADER = struct.Struct("<4sHH16s16s16sQqII16sQ")
_SCAN_BYTES = 4 * 1024 * 1024


@attrs.frozen(slots=True)
class NewContent:
    """An item's bytes on their way into a segment."""

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


def _padded(size: int) -> int:
    return (size + CONTENT_ALIGN - 1) // CONTENT_ALIGN * CONTENT_ALIGN


def encode(
    instance: InstanceId, items: Sequence[NewContent], *, segment: int, start: int
) -> tuple[bytes, list[ContentRef]]:
    """Frames for these items, to be written at `start` of `segment`, and where each one is."""
    assert start % CONTENT_ALIGN == 0
    pieces: list[bytes] = []
    refs: list[ContentRef] = []
    offset = start
    for item in items:
        size = len(item.content)
        assert size <= CONTENT_BYTES_MAX, "checked where the item came in"
        content_hash = xxhash.xxh3_128_digest(item.content)
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            0,
            instance,
            item.folder_id,
            item.item_id,
            size,
            item.received_ms,
            item.flags,
            0,
            content_hash,
            0,
        )[:-8]
        header += struct.pack("<Q", xxhash.xxh3_64_intdigest(header))
        pieces += (header.ljust(HEADER_BYTES, b"\0"), item.content, bytes(-size % CONTENT_ALIGN))
        refs.append(ContentRef(segment, offset, size, content_hash))
        offset += HEADER_BYTES + _padded(size)
    return b"".join(pieces), refs


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
    if len(content) != ref.size:
        raise Corruption(
            path=str(file.path), offset=ref.offset, expected=f"{ref.size} bytes of content", found=f"{len(content)}"
        )
    if xxhash.xxh3_128_digest(content) != ref.content_hash:
        raise Corruption(
            path=str(file.path),
            offset=ref.offset + HEADER_BYTES,
            expected=f"content with xxh3_128 {ref.content_hash.hex()}",
            found=xxhash.xxh3_128_hexdigest(content),
        )
    return content


def scan(file: File, segment: int) -> Iterator[FoundContent | Corruption]:
    """Every content frame in a segment, in order, found without the catalogue; damaged content as `Corruption`.

    What a crash left unfinished looks the same as damage: only the catalogue knows which frames were acknowledged.
    """
    size = file.size()
    offset = 0
    while offset + HEADER_BYTES <= size:
        found = decode_header(file.read(HEADER_BYTES, offset), segment=segment, offset=offset)
        if found is None:
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
        offset += HEADER_BYTES + _padded(found.ref.size)


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
