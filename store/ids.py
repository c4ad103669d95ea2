"""Names of things, and places in the log."""

import os
from typing import NamedTuple, NewType

import attrs

MailboxId = NewType("MailboxId", bytes)
"""What a person has; an instance of it lives in a database. The store only keeps it."""
InstanceId = NewType("InstanceId", bytes)
FolderId = NewType("FolderId", bytes)
ItemId = NewType("ItemId", bytes)
Signature = NewType("Signature", bytes)
"""Names a timeline of a database: a restore or a lossy activation starts a new one."""


def new_id(now_ms: int) -> bytes:
    """Sixteen bytes, the first six the time: ids made together lie together in an index (as RFC 9562 UUIDv7)."""
    return now_ms.to_bytes(6, "big") + os.urandom(10)


def new_ids(now_ms: int, number: int) -> list[bytes]:
    """So many ids, in rising order: items that are added together are listed in the order of their bytes."""
    common = now_ms.to_bytes(6, "big") + os.urandom(7)
    return [common + at.to_bytes(3, "big") for at in range(number)]


@attrs.frozen(order=True)
class LogPosition:
    """A point between two frames: a generation, and a byte offset in it."""

    generation: int
    offset: int

    def __str__(self) -> str:
        return f"{self.generation:08d}:{self.offset}"


@attrs.frozen
class LogHead:
    """Where the log ends, and the running digest of everything before: what the next frame is chained to."""

    position: LogPosition
    chain: bytes


class ContentRef(NamedTuple):
    """Where an item's bytes are: segment, offset of the content frame, size and xxh3_128 of the content."""

    segment: int
    offset: int
    size: int
    content_hash: bytes
