"""What the log can say; its msgpack form.

A record is a *result*, never a request: UIDs, modseqs and places are in it, so replay needs no decisions and an old
log means the same under new code. Rows of items travel as plain tuples (`ItemRow` …), because they come by the
thousand. On the wire a record is an array: its tag, then its fields in the order written here. Fields are only ever
added at the end, with a default; tags are never reused.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple

import attrs
import msgpack

from store.ids import ContentRef, FolderId, InstanceId, ItemId, MailboxId
from store.typed import fitting


class Mode(IntEnum):
    """A mailbox instance's guard: who may write to it now."""

    OPEN = 0
    """Clients and deliveries."""
    LOCKED = 1
    """Nobody: it is being finalized."""
    SEALED = 2
    """The mover, by token."""
    RETIRED = 3
    """Sealed, with a redirect to where the mailbox lives now."""


class ItemRow(NamedTuple):
    """An item, whole."""

    item_id: ItemId
    folder_id: FolderId
    uid: int
    modseq: int
    received_ms: int
    size: int
    content_hash: bytes
    segment: int
    offset: int
    flags: int
    keywords: tuple[str, ...]
    item_class: str
    properties: tuple[tuple[str, str], ...]

    @property
    def ref(self) -> ContentRef:
        return ContentRef(self.segment, self.offset, self.size, self.content_hash)

    def at(self, ref: ContentRef) -> "ItemRow":
        """The same item with its bytes there."""
        return ItemRow._make((*self[:6], ref.content_hash, ref.segment, ref.offset, *self[9:]))


class ItemStateRow(NamedTuple):
    """What may change about an item: place, flags, properties."""

    item_id: ItemId
    folder_id: FolderId
    uid: int
    modseq: int
    flags: int
    keywords: tuple[str, ...]
    properties: tuple[tuple[str, str], ...]


class GoneRow(NamedTuple):
    """A tombstone."""

    id: bytes
    modseq: int


class DeliveryKeyRow(NamedTuple):
    """A delivery that was accepted."""

    key: bytes
    content_digest: bytes
    accepted_ms: int
    modseq: int


@attrs.frozen
class Record:
    """The root of all records; `tag` is its name on the wire."""

    tag: ClassVar[int]


@attrs.frozen
class MailboxMade(Record):
    tag = 1
    instance: InstanceId
    mailbox_id: MailboxId
    mode: int
    token: int
    created_ms: int


@attrs.frozen
class GuardSet(Record):
    """`modseq` 0: the token alone was raised, nothing a feed reader needs to see."""

    tag = 2
    instance: InstanceId
    mode: int
    token: int
    home: str
    modseq: int


@attrs.frozen
class MailboxRemoved(Record):
    """Soft-deleted: kept until the date."""

    tag = 3
    instance: InstanceId
    keep_until_ms: int


@attrs.frozen
class MailboxPurged(Record):
    tag = 4
    instance: InstanceId


@attrs.frozen
class FolderPut(Record):
    """A folder, made or changed. `parent_id` b"": at the top."""

    tag = 5
    instance: InstanceId
    folder_id: FolderId
    parent_id: bytes
    name: str
    modseq: int
    uidvalidity: int
    uidnext: int
    special_use: str
    subscribed: bool
    hidden: bool
    attributes: tuple[tuple[str, str], ...]


@attrs.frozen
class FolderGone(Record):
    tag = 6
    instance: InstanceId
    folder_id: FolderId
    modseq: int


@attrs.frozen
class ItemsPut(Record):
    """New items."""

    tag = 7
    instance: InstanceId
    rows: Sequence[ItemRow]


@attrs.frozen
class ItemsReplaced(Record):
    """Items that are there, with other bytes: a draft that was saved again."""

    tag = 16
    instance: InstanceId
    rows: Sequence[ItemRow]


@attrs.frozen
class ItemsChanged(Record):
    """New states of items that are there."""

    tag = 8
    instance: InstanceId
    rows: Sequence[ItemStateRow]


@attrs.frozen
class ItemsGone(Record):
    """Tombstones; also of items that were never here (a mover may learn of the end before the beginning)."""

    tag = 9
    instance: InstanceId
    rows: Sequence[GoneRow]


@attrs.frozen
class SettingPut(Record):
    """`value` None: removed."""

    tag = 10
    instance: InstanceId
    name: str
    value: str | None
    modseq: int


@attrs.frozen
class DeliveryKeysPut(Record):
    tag = 11
    instance: InstanceId
    rows: Sequence[DeliveryKeyRow]


@attrs.frozen
class HeadRaised(Record):
    """The mailbox's head is at least this: a mover has covered the source's feed so far."""

    tag = 12
    instance: InstanceId
    modseq: int


@attrs.frozen
class FeedCut(Record):
    """Tombstones up to `horizon` and delivery keys accepted before `keys_before_ms` are dropped."""

    tag = 13
    instance: InstanceId
    horizon: int
    keys_before_ms: int


@attrs.frozen
class FolderRoomRaised(Record):
    """UIDNEXT is at least this: the source handed out that many."""

    tag = 14
    instance: InstanceId
    folder_id: FolderId
    uidnext: int


@attrs.frozen
class SegmentsDropped(Record):
    """No item refers to these segments any more; their files may go."""

    tag = 15
    numbers: tuple[int, ...]


@attrs.frozen
class MailboxConnected(Record):
    """Not soft-deleted any more."""

    tag = 17
    instance: InstanceId


_KINDS: dict[int, type[Record]] = {
    kind.tag: kind
    for kind in (
        MailboxMade,
        GuardSet,
        MailboxRemoved,
        MailboxPurged,
        FolderPut,
        FolderGone,
        ItemsPut,
        ItemsReplaced,
        ItemsChanged,
        ItemsGone,
        SettingPut,
        DeliveryKeysPut,
        HeadRaised,
        FeedCut,
        FolderRoomRaised,
        SegmentsDropped,
        MailboxConnected,
    )
}
_ROWS: dict[type[Record], type[Any]] = {
    ItemsPut: ItemRow,
    ItemsReplaced: ItemRow,
    ItemsChanged: ItemStateRow,
    ItemsGone: GoneRow,
    DeliveryKeysPut: DeliveryKeyRow,
}
_FIELDS = {kind: tuple(field.name for field in attrs.fields(kind)) for kind in _KINDS.values()}
_FITS = {
    **{kind: fitting(kind, [name for name in names if name != "rows"]) for kind, names in _FIELDS.items()},
    **{row: fitting(row, row._fields) for row in set(_ROWS.values())},
}

Transaction = Sequence[Record]
"""Records that happen together or not at all."""


def encode(transactions: Sequence[Transaction]) -> bytes:
    """The payload of one log frame: the transactions of one commit, in order."""
    return join([pack(transaction) for transaction in transactions])


def pack(transaction: Transaction) -> bytes:
    """One transaction's part of a payload. Raises where it holds what cannot be written down: a bug of its maker."""
    wire = [[record.tag, *(getattr(record, name) for name in _FIELDS[type(record)])] for record in transaction]
    packed: bytes = msgpack.packb(wire)
    return packed


def join(packed: Sequence[bytes]) -> bytes:
    """The payload that these transactions make together."""
    return b"".join((msgpack.Packer().pack_array_header(len(packed)), *packed))


def decode(payload: bytes) -> list[list[Record]]:
    """The transactions of one log frame.

    Raises:
        ValueError: the payload, though its checksum was right, says something that this code does not know.
    """
    try:
        wire = msgpack.unpackb(payload, use_list=False)
        return [[_record(parts) for parts in transaction] for transaction in wire]
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        raise ValueError(f"a log record that this version does not know: {error!r}") from error


def _record(parts: tuple[Any, ...]) -> Record:
    kind = _KINDS[parts[0]]
    fields = list(parts[1:])
    row = _ROWS.get(kind)
    if row is not None:
        rows = [row._make(values) for values in fields[1]]
        if not all(map(_FITS[row], rows)):
            raise TypeError(f"a row of {kind.__name__}")
        fields[1] = rows
    if not _FITS[kind](fields[:1] if row is not None else fields):
        raise TypeError(f"a field of {kind.__name__}")
    return kind(*fields)
