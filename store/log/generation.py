"""A generation: one numbered file of the transaction log.

Numbered and sealed rather than one endless file, so that shipping, backup and trimming deal in whole files that
never change again.

    header block | frame | frame | … | seal frame | zeros

The header names the database's timeline, this generation's number, when it was begun, the running digest at the end
of the one before, and, in the first one of a timeline, the parent timeline and the position where it left it. A
generation appears whole, header included, by a rename.

What always holds: frames of a sealed generation never change; numbers have no gaps.
Does not decide when to roll, and does not know what frames say: see `log`.
"""

import struct

import attrs
import xxhash

from store.disk import Disk
from store.errors import Corruption
from store.ids import LogHead, LogPosition, Signature
from store.layout import Layout
from store.limits import BLOCK

MAGIC = b"MVQL"
VERSION = 1
_HEADER = struct.Struct("<4sHHI16sQ16s16sIQQ")
NO_PARENT = Signature(bytes(16))
NOWHERE = LogPosition(0, 0)


@attrs.frozen(kw_only=True)
class GenerationHeader:
    """What the first block of a generation says."""

    signature: Signature
    number: int
    created_ms: int
    chain: bytes
    """The running digest at the end of the generation before; zeros in the very first."""
    parent: Signature = NO_PARENT
    parent_position: LogPosition = NOWHERE

    @property
    def head(self) -> LogHead:
        """Where the first frame goes."""
        return LogHead(LogPosition(self.number, BLOCK), self.chain)

    def encode(self) -> bytes:
        body = _HEADER.pack(
            MAGIC,
            VERSION,
            0,
            self.number,
            self.signature,
            self.created_ms,
            self.chain,
            self.parent,
            self.parent_position.generation,
            self.parent_position.offset,
            0,
        )[:-8]
        return (body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))).ljust(BLOCK, b"\0")


def decode_header(raw: bytes, *, path: str) -> GenerationHeader:
    """Raises `Corruption` where this is no header of a generation that this code reads."""
    if len(raw) < BLOCK:
        raise Corruption(path=path, offset=0, expected=f"a header of {BLOCK} bytes", found=f"{len(raw)} bytes")
    magic, version, _, number, signature, created, chain, parent, parent_generation, parent_offset, check = (
        _HEADER.unpack_from(raw)
    )
    if magic != MAGIC:
        raise Corruption(path=path, offset=0, expected="a log generation", found=f"the bytes {magic.hex()}")
    if check != xxhash.xxh3_64_intdigest(raw[: _HEADER.size - 8]) or raw[_HEADER.size : BLOCK].strip(b"\0"):
        raise Corruption(path=path, offset=0, expected="a valid header", found="a wrong checksum")
    if version != VERSION:
        raise Corruption(path=path, offset=4, expected=f"format version {VERSION}", found=str(version))
    return GenerationHeader(
        signature=Signature(signature),
        number=number,
        created_ms=created,
        chain=chain,
        parent=Signature(parent),
        parent_position=LogPosition(parent_generation, parent_offset),
    )


def make_generation(disk: Disk, layout: Layout, header: GenerationHeader) -> None:
    """The generation exists, empty. Durable on return. One that is there already is left alone by the caller."""
    path = layout.generation(header.number)
    temporary = path.with_suffix(".new")
    disk.remove(temporary)
    file = disk.open(temporary, create=True, exclusive=True)
    try:
        file.write(header.encode(), 0)
        file.sync()
    finally:
        file.close()
    disk.replace(temporary, path)
    disk.sync_folder(path.parent)
