"""What a mailbox holds, as values: folders, items, settings, delivery keys, and batches of their changes.

A change is a *state*, not an event: "this item looks so, as of its modseq". Two states of one item merge by
`absent < live(modseq) < dead`: take the greater. So order, repetition and replay from an older watermark cannot
matter (`docs/explanation`, "fuzzy copy").
"""

from collections.abc import Mapping
from enum import IntFlag
from types import MappingProxyType
from typing import NamedTuple

import attrs

from moverq.model.ids import FolderId, InstanceId, ItemId

INBOX = "INBOX"
NO_PROPERTIES: Mapping[str, str] = MappingProxyType({})


class Flag(IntFlag):
    """IMAP's system flags (RFC 9051 §2.3.2) as bits; everything else is a keyword."""

    SEEN = 1
    ANSWERED = 2
    FLAGGED = 4
    DELETED = 8
    DRAFT = 16


@attrs.frozen(slots=True)
class FolderState:
    """One folder as it is. `parent_id` None: at the top. `name`: one level, Unicode, without separator rules.

    `modseq` counts changes of the folder itself (name, place, attributes), not of its items; so `uidnext` moves
    without it, and finalize compares it once more under the lock.
    """

    folder_id: FolderId
    parent_id: FolderId | None
    name: str
    modseq: int
    uidvalidity: int
    uidnext: int
    special_use: str = ""
    """RFC 6154 attribute with its backslash, e.g. ``\\Sent``; "" for none."""
    subscribed: bool = True
    hidden: bool = False
    """Recoverable items live in a hidden folder."""
    attributes: Mapping[str, str] = NO_PROPERTIES


class ItemState(NamedTuple):
    """One item as it is, without its bytes. A tuple, like all that comes by the thousand."""

    item_id: ItemId
    folder_id: FolderId
    uid: int
    modseq: int
    received_ms: int
    """INTERNALDATE, milliseconds since 1970 UTC."""
    size: int
    content_hash: bytes
    """xxh3_128 of the bytes, 16 bytes; b"" where the endpoint cannot know it without reading."""
    flags: int
    keywords: tuple[str, ...]
    """Sorted, each once."""
    item_class: str = "IPM.Note"
    properties: Mapping[str, str] = NO_PROPERTIES


@attrs.frozen(slots=True)
class SettingState:
    """One mailbox setting (rules, ACL, quota, …): JSON text under a name. `value` None: removed."""

    name: str
    value: str | None
    modseq: int


@attrs.frozen(slots=True)
class DeliveryKeyState:
    """A delivery that was accepted: it must not be accepted again, wherever the mailbox lives."""

    key: bytes
    content_digest: bytes
    """xxh3_128 of the content as delivered: the same key with other content is another delivery."""
    accepted_ms: int
    modseq: int


@attrs.frozen(slots=True, order=True)
class Watermark:
    """A place in one mailbox instance's change feed: everything up to `modseq` is covered.

    `timeline` is the database's signature: a restored or lossily activated database starts a new one, and a
    watermark of another timeline gets `FeedTrimmed`, never a wrong answer.
    """

    timeline: bytes
    instance: InstanceId
    modseq: int

    def __str__(self) -> str:
        return f"{self.modseq}@{self.instance.hex()[:8]}/{self.timeline.hex()[:8]}"


class Gone(NamedTuple):
    """A tombstone: the item or folder `id` is dead as of `modseq`, for good."""

    id: bytes
    modseq: int


@attrs.frozen(slots=True, kw_only=True)
class ChangeBatch:
    """Changes that travel together: present states of what differs since a watermark, bounded.

    `hierarchy` is the *whole* folder tree as of the read whenever any folder changed since the watermark, else
    None; so an item never names a folder the reader cannot know. `through` is what the reader has covered after
    applying this batch; `more` says there is more to read at once.
    """

    through: Watermark
    more: bool
    hierarchy: tuple[FolderState, ...] | None = None
    items: tuple[ItemState, ...] = ()
    items_gone: tuple[Gone, ...] = ()
    settings: tuple[SettingState, ...] = ()
    delivery_keys: tuple[DeliveryKeyState, ...] = ()

    @property
    def changes(self) -> int:
        """How many changes this is, a hierarchy counting one."""
        return (
            len(self.items)
            + len(self.items_gone)
            + len(self.settings)
            + len(self.delivery_keys)
            + (self.hierarchy is not None)
        )


class ItemContent(NamedTuple):
    """An item's state with its bytes, ready to be written."""

    state: ItemState
    content: bytes


@attrs.frozen(slots=True)
class BadItem:
    """An item that cannot move: counted against the request's BadItemLimit, its raw bytes quarantined.

    `kind` is one of Exchange's words: CorruptItem, MissingItem, LargeItem.
    """

    state: ItemState
    kind: str
    why: str
    raw: bytes | None = None
