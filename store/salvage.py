"""The items of a database as their own content frames tell of them: what there is when the log is lost.

What a content frame says is the item, its mailbox instance, the folder's id, when it was received and the flags it came
with. What it does not say is `UNKNOWN_FROM_CONTENT`: folder names, present flags and places, keywords, deletions,
settings, delivery keys, UIDs, and who may write. So the mailboxes come back *locked*: whoever knows the directory
decides which of them is open.
"""

from collections.abc import Iterable

import apsw

from store.catalogue.apply import Applier
from store.catalogue.schema import write_applied
from store.check import Progress
from store.clock import now_ms
from store.content.segment import FoundContent, scan
from store.disk import Disk
from store.errors import Corruption
from store.ids import FolderId, InstanceId, ItemId, LogHead, MailboxId
from store.layout import Layout, segment_numbers
from store.log.log import Log
from store.names import INBOX, uidvalidity
from store.records import FolderPut, ItemRow, ItemsPut, ItemsReplaced, MailboxMade, Mode, Record, encode

ROWS_PER_TRANSACTION = 4096
NO_FOLDER = FolderId(bytes(16))
"""Deliveries do not know their folder when their bytes are written: it is INBOX, which every mailbox has."""
UNKNOWN_FROM_CONTENT = (
    "folder names and the folder tree (folders are named after their ids)",
    "flags, keywords and places that changed after an item arrived",
    "which items were deleted or purged (all that is still in the segments is back)",
    "UIDs and change numbers (clients will download anew)",
    "settings, subscriptions, special use",
    "delivery keys (a message that an MTA sends again may arrive twice)",
    "which mailbox each instance is, and whether it was open (they are locked; the directory knows)",
)


def salvage(disk: Disk, layout: Layout, into: "Salvage", *, damage: list[str], tell: Progress) -> None:
    """What the segments hold is in the new log; `damage`: what could not be read of them."""
    for number in segment_numbers(disk.names(layout.content)):
        tell("segments", number, 0)
        file = disk.open(layout.segment(number), readonly=True)
        try:
            for found in scan(file, number):
                if isinstance(found, Corruption):
                    damage.append(str(found))
                else:
                    into.add(found)
        finally:
            file.close()
    into.finish()


class Salvage:
    """Puts found items back, in transactions of the new log."""

    def __init__(self, db: apsw.Connection, log: Log, head: LogHead) -> None:
        self._db, self._log, self._head = db, log, head
        self._seen: dict[InstanceId, dict[FolderId, int]] = {}
        self._modseqs: dict[InstanceId, int] = {}
        self._rows: dict[InstanceId, list[ItemRow]] = {}
        self._records: list[Record] = []
        self._items: dict[tuple[InstanceId, ItemId], bytes] = {}
        self._pending = 0

    def add(self, found: FoundContent) -> None:
        """An item's last frame counts: a draft was saved again. A mover may have written the same bytes again after a
        crash; then there is nothing to do."""
        place = found.instance, found.item_id
        known = self._items.get(place)
        if known == found.ref.content_hash:
            return
        self._items[place] = found.ref.content_hash
        uid = self._folder(found)
        row = ItemRow(
            found.item_id,
            found.folder_id,
            uid,
            self._modseq(found.instance),
            found.received_ms,
            found.ref.size,
            found.ref.content_hash,
            found.ref.segment,
            found.ref.offset,
            found.flags,
            (),
            "IPM.Note",
            (),
        )
        if known is not None:
            self.finish()  # its first frame may be among what is pending
            self._records.append(ItemsReplaced(found.instance, [row]))
        else:
            self._rows.setdefault(found.instance, []).append(row)
        self._pending += 1
        if self._pending >= ROWS_PER_TRANSACTION:
            self.finish()

    def _folder(self, found: FoundContent) -> int:
        """The item's folder is there; returns the item's UID in it."""
        if found.instance not in self._seen:
            self._seen[found.instance] = {}
            self._records.append(MailboxMade(found.instance, MailboxId(bytes(16)), Mode.LOCKED, 0, now_ms()))
            self._put_folder(found.instance, NO_FOLDER, INBOX)
        folders = self._seen[found.instance]
        if found.folder_id not in folders:
            self._put_folder(found.instance, found.folder_id, f"Recovered {found.folder_id.hex()}")
        uid = folders[found.folder_id]
        folders[found.folder_id] = uid + 1
        return uid

    def _put_folder(self, instance: InstanceId, folder_id: FolderId, name: str) -> None:
        self._seen[instance][folder_id] = 1
        modseq = self._modseq(instance)
        validity = uidvalidity(now_ms(), modseq)
        self._records.append(FolderPut(instance, folder_id, b"", name, modseq, validity, 1, "", True, False, ()))

    def _modseq(self, instance: InstanceId) -> int:
        self._modseqs[instance] = self._modseqs.get(instance, 0) + 1
        return self._modseqs[instance]

    def finish(self) -> None:
        """What was added is in the log and in the catalogue."""
        records: Iterable[Record] = (ItemsPut(instance, rows) for instance, rows in self._rows.items())
        transaction = [*self._records, *records]
        if transaction:
            self._db.execute("BEGIN IMMEDIATE")
            Applier(self._db).apply(transaction)
            self._head = self._log.append(encode([transaction]), head=self._head, now_ms=now_ms())
            write_applied(self._db, self._head)
            self._db.execute("COMMIT")
        self._records, self._rows, self._pending = [], {}, 0
