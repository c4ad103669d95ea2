"""A content frame: an item's bytes with a header that names the item, so that content alone tells whose it is.

    magic 4 | version 2 | reserved 2 | instance 16 | folder 16 | item 16 | size 8 | received_ms 8 | flags 4
    | reserved 4 | xxh3_128 of the content 16 | xxh3_64 of the header so far 8 | zeros to 128 | content | zeros to 64

Frames lie at multiples of 64 bytes, so a scan finds the next one behind any damage; what was written together ends
with zeros to the next multiple of 4096. Flags and folder are those at arrival: the catalogue has the present ones,
and a rebuild from content alone says so.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import attrs
import xxhash

from store.disk import File, is_unreadable
from store.errors import Corruption, StoreBroken
from store.frame import padded
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


class Header(Protocol):
    """What a content frame says of its item; an `ItemRow` does."""

    @property
    def item_id(self) -> ItemId: ...
    @property
    def folder_id(self) -> FolderId: ...
    @property
    def received_ms(self) -> int: ...
    @property
    def flags(self) -> int: ...


class NewContent(NamedTuple):
    """A `Header` alone: of an item whose row is not known yet."""

    item_id: ItemId
    folder_id: FolderId
    received_ms: int
    flags: int


NewFrame = tuple[InstanceId, Header, bytes]
"""An item to be written: whose it is, what its frame says of it, and its bytes."""


class Place(Protocol):
    """Where an item's bytes are; a `ContentRef` and an `ItemRow` say so."""

    @property
    def segment(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def content_hash(self) -> bytes: ...


@attrs.frozen
class FoundContent:
    """A content frame as a scan finds it."""

    instance: InstanceId
    folder_id: FolderId
    item_id: ItemId
    received_ms: int
    flags: int
    ref: ContentRef


def encode(items: Iterable[NewFrame], *, segment: int, start: int) -> tuple[list[bytes], list[ContentRef]]:
    """Frames for these items, in pieces to be written one after the other at `start` of `segment`, and where each
    frame is."""
    assert start % CONTENT_ALIGN == 0
    pieces: list[bytes] = []
    refs: list[ContentRef] = []
    offset, padding = start, b""
    for instance, item, content in items:
        size = len(content)
        assert size <= CONTENT_BYTES_MAX, "checked where the item came in"
        content_hash = xxhash.xxh3_128_digest(content)
        header = _HEADER_BODY.pack(
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
        )
        pieces += (padding + header + _HEADER_END.pack(xxhash.xxh3_64_intdigest(header)), content)
        refs.append(ContentRef(segment, offset, size, content_hash))
        padding = _PADDING[-size % CONTENT_ALIGN]
        offset += HEADER_BYTES + size + len(padding)
    pieces.append(padding)
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


def read_content(file: File, ref: Place) -> bytes:
    """An item's bytes, checked.

    Raises:
        Corruption: the bytes are not those that were written.
    """
    content = file.read(ref.size, ref.offset + HEADER_BYTES)
    check_content(content, ref, file.path)
    return content


def check_content(content: bytes, ref: Place, path: Path) -> None:
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
    """Every content frame in a segment, in order, found without the catalogue; damaged content as `Corruption`, what
    the disk cannot read too.

    What a crash left unfinished looks the same as damage: only the catalogue knows which frames were acknowledged.
    """
    size = file.size()
    offset = 0
    while offset + HEADER_BYTES <= size:
        padding_end = min(padded(offset + 1, DIRECT_ALIGN), size)
        block = _read(file, max(padding_end - offset, HEADER_BYTES), offset)
        found = decode_header(block or b"", segment=segment, offset=offset)
        if found is None:
            if block is not None and not block[: padding_end - offset].strip(b"\0"):
                offset = padding_end  # the end of what was written together
                continue
            following = _next_frame(file, segment, offset + CONTENT_ALIGN, size)
            yield Corruption(
                path=str(file.path),
                offset=offset,
                expected="a content frame",
                found="bytes that the disk cannot read" if block is None else f"{following - offset} other bytes",
            )
            offset = following
            continue
        damage = _damage(file, found.ref, size)
        if damage is None:
            yield found
            offset += HEADER_BYTES + padded(found.ref.size, CONTENT_ALIGN)
            continue
        yield damage
        # Not behind the bytes that are missing: whoever wrote them may have died, and the next one went on from the
        # end of what was there.
        offset = _next_frame(file, segment, offset + HEADER_BYTES, size)


def _damage(file: File, ref: ContentRef, size: int) -> Corruption | None:
    """Why this content of a segment of `size` bytes is not what was written; None where it is."""
    there = size - ref.offset - HEADER_BYTES
    if ref.size > there:
        return Corruption(
            path=str(file.path), offset=ref.offset, expected=f"{ref.size} bytes of content", found=f"{there}"
        )
    content = _read(file, ref.size, ref.offset + HEADER_BYTES)
    if content is None:
        return unreadable(file, ref)
    try:
        check_content(content, ref, file.path)
    except Corruption as damage:
        return damage
    return None


def unreadable(file: File, ref: Place) -> Corruption:
    """A disk that cannot read a sector has lost the item that lies there, and no other."""
    return Corruption(
        path=str(file.path),
        offset=ref.offset,
        expected=f"{ref.size} bytes of content",
        found="bytes that the disk cannot read",
    )


def _read(file: File, size: int, offset: int) -> bytes | None:
    """None where the disk cannot."""
    try:
        return file.read(size, offset)
    except StoreBroken as error:
        if not is_unreadable(error):
            raise
        return None


def _read_in_pieces(file: File, size: int, offset: int) -> bytes:
    """With zeros in place of what the disk cannot read; page by page where there is such a place."""
    window = _read(file, size, offset)
    if window is not None:
        return window
    pieces, end = [], min(offset + size, file.size())
    while offset < end:
        page_end = min(padded(offset + 1, DIRECT_ALIGN), end)
        page = _read(file, page_end - offset, offset)
        pieces.append(bytes(page_end - offset) if page is None else page)
        offset = page_end
    return b"".join(pieces)


def _next_frame(file: File, segment: int, offset: int, size: int) -> int:
    """Where the next whole frame header is, or the end of the file."""
    while offset < size:
        window = _read_in_pieces(file, _SCAN_BYTES + HEADER_BYTES, offset)
        at = window.find(MAGIC)
        while 0 <= at < _SCAN_BYTES:
            if (offset + at) % CONTENT_ALIGN == 0 and decode_header(window[at:], segment=segment, offset=offset + at):
                return offset + at
            at = window.find(MAGIC, at + 1)
        offset += _SCAN_BYTES
    return size
