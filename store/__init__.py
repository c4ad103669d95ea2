"""A mailbox store: databases with a transaction log, content segments and a catalogue that follows from them.

It has never heard of moves; but its guard, its change feed and its digests are what a mover needs.
"""

from store.catalogue.queries import FeedPage, FolderInfo, MailboxInfo
from store.database import Database, Statistics, create_database, holds_database, lock_alone, open_database
from store.errors import (
    Corruption,
    FeedTrimmed,
    MailboxLocked,
    MailboxMoved,
    MailboxSealed,
    NoSuchFolder,
    NoSuchItem,
    NoSuchMailbox,
    QuotaExceeded,
    Refused,
    StaleToken,
    StoreBroken,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreFull,
)
from store.ids import FolderId, InstanceId, ItemId, MailboxId
from store.mailbox import Mailbox
from store.mover import FolderStepKind, MovedChanges, MovedFolder, Mover, RefusedItem
from store.names import INBOX, LABEL, RECOVERABLE_ITEMS, Added, NewItem
from store.paging import Fetched, Page
from store.records import DeliveryKeyRow, FolderPut, GoneRow, ItemRow, Mode

__all__ = [
    "INBOX",
    "LABEL",
    "RECOVERABLE_ITEMS",
    "Added",
    "Corruption",
    "Database",
    "DeliveryKeyRow",
    "FeedPage",
    "FeedTrimmed",
    "Fetched",
    "FolderId",
    "FolderInfo",
    "FolderPut",
    "FolderStepKind",
    "GoneRow",
    "InstanceId",
    "ItemId",
    "ItemRow",
    "Mailbox",
    "MailboxId",
    "MailboxInfo",
    "MailboxLocked",
    "MailboxMoved",
    "MailboxSealed",
    "Mode",
    "MovedChanges",
    "MovedFolder",
    "Mover",
    "NewItem",
    "NoSuchFolder",
    "NoSuchItem",
    "NoSuchMailbox",
    "Page",
    "QuotaExceeded",
    "Refused",
    "RefusedItem",
    "StaleToken",
    "Statistics",
    "StoreBroken",
    "StoreBusy",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "create_database",
    "holds_database",
    "lock_alone",
    "open_database",
]
