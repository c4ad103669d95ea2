"""Names of things: sixteen random bytes each, shown as hex.

A *mailbox* is what a person has, and keeps through every move. An *instance* is one copy of it in one database:
a move makes a second instance and ends with one of them at home.
"""

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
