"""Names of things: sixteen random bytes each, shown as hex.

A *mailbox* is what a person has, and keeps through every move. An *instance* is one copy of it in one database:
a move makes a second instance and ends with one of them at home.
"""

from collections.abc import Iterator
from typing import NewType
from uuid import uuid4

MailboxId = NewType("MailboxId", bytes)
InstanceId = NewType("InstanceId", bytes)
FolderId = NewType("FolderId", bytes)
ItemId = NewType("ItemId", bytes)
RequestId = NewType("RequestId", str)
"""Hex, so that it can be typed, and used as the name of a folder."""


def new_id() -> bytes:
    """Sixteen random bytes. Simulations pass their own maker where ids must repeat from a seed."""
    return uuid4().bytes


def new_ids(count: int) -> Iterator[bytes]:
    """As many new ones, each the next number after the one before, from a random one on: what is written together lies
    together in every tree that is ordered by them."""
    first = int.from_bytes(new_id(), "big")
    return (((first + n) % (1 << 128)).to_bytes(16, "big") for n in range(count))
