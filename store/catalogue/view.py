"""The catalogue inside one commit: as it is, with what this commit has decided so far.

A group of deliveries asks the same few questions about the same few mailboxes again and again, and each writes one
row. So what was looked up once is remembered, and rows are written together: at the latest when somebody asks the
catalogue itself (`db`), so nobody ever reads it without them.

What always holds: what is remembered is what the catalogue would answer. New items and delivery keys carry it along;
any other record makes this forget it all.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import apsw

from store.catalogue import queries
from store.catalogue.apply import Applier
from store.catalogue.queries import MailboxInfo
from store.ids import FolderId, InstanceId
from store.names import INBOX, QUOTA_BYTES
from store.records import DeliveryKeysPut, ItemsPut, Record


class BrokenRule(Exception):
    """Records break a rule of the catalogue: a bug of their maker, here as it showed itself."""

    def __init__(self, bug: Exception) -> None:
        super().__init__(repr(bug))
        self.bug = bug


class View:
    """See the module. `keys`: the delivery keys that will be asked for, to be looked up together."""

    def __init__(self, db: apsw.Connection, keys: Mapping[InstanceId, Sequence[bytes]]) -> None:
        self._db = db
        self._applier = Applier(db)
        self._keys = keys
        self._forget()

    def _forget(self) -> None:
        self._mailboxes: dict[InstanceId, MailboxInfo] = {}
        self._inboxes: dict[InstanceId, tuple[FolderId, int] | None] = {}
        self._quotas: dict[InstanceId, tuple[int | None, int]] = {}
        self._accepted: dict[InstanceId, set[tuple[bytes, bytes]]] = {}

    @property
    def db(self) -> apsw.Connection:
        """The catalogue, all that was applied included. Raises `BrokenRule`."""
        self.flush()
        return self._db

    def mailbox(self, instance: InstanceId) -> MailboxInfo:
        """Raises `NoSuchMailbox`."""
        info = self._mailboxes.get(instance)
        if info is None:
            info = self._mailboxes[instance] = queries.mailbox(self.db, instance)
        return info

    def inbox(self, instance: InstanceId) -> tuple[FolderId, int] | None:
        """INBOX and its UIDNEXT, if there is one. Raises `NoSuchMailbox`."""
        if instance not in self._inboxes:
            found = queries.child(self.db, self.mailbox(instance).no, b"", INBOX)
            self._inboxes[instance] = None if found is None else (found.folder_id, found.uidnext)
        return self._inboxes[instance]

    def quota(self, instance: InstanceId) -> tuple[int | None, int]:
        """The mailbox's quota in bytes, if it has one, and what is used. Raises `NoSuchMailbox`."""
        if instance not in self._quotas:
            no = self.mailbox(instance).no
            text = queries.setting(self.db, no, QUOTA_BYTES)
            self._quotas[instance] = (None, 0) if text is None else (int(text), queries.used_bytes(self.db, no))
        return self._quotas[instance]

    def was_accepted(self, instance: InstanceId, key: bytes, content_digest: bytes) -> bool:
        """Was content with this digest accepted under this delivery key? Raises `NoSuchMailbox`."""
        accepted = self._accepted.get(instance)
        if accepted is None:
            keys = self._keys[instance]
            accepted = self._accepted[instance] = queries.accepted(self.db, self.mailbox(instance).no, keys)
        return (key, content_digest) in accepted

    def apply(self, records: Sequence[Record]) -> None:
        """The catalogue is as these records say, for all who ask here. Raises `BrokenRule`."""
        for record in records:
            if not isinstance(record, ItemsPut | DeliveryKeysPut):
                self._forget()
                continue
            info = self._mailboxes.get(record.instance)
            if info is not None:
                head = max([info.head, *(row.modseq for row in record.rows)])
                self._mailboxes[record.instance] = info._replace(head=head)
            if isinstance(record, ItemsPut):
                self._carry_items(record)
            elif record.instance in self._accepted:
                self._accepted[record.instance].update((row.key, row.content_digest) for row in record.rows)
        with _rules():
            self._applier.gather(records)

    def _carry_items(self, record: ItemsPut) -> None:
        inbox = self._inboxes.get(record.instance)
        if inbox is not None:
            uids = [row.uid for row in record.rows if row.folder_id == inbox[0]]
            self._inboxes[record.instance] = inbox[0], max([inbox[1] - 1, *uids]) + 1
        if record.instance in self._quotas:
            quota, used = self._quotas[record.instance]
            self._quotas[record.instance] = quota, used + sum(row.size for row in record.rows)

    def flush(self) -> None:
        """All that was applied is in the catalogue. Raises `BrokenRule`."""
        if self._applier.has_gathered:
            with _rules():
                self._applier.flush()


@contextmanager
def _rules() -> Iterator[None]:
    try:
        yield
    except apsw.ConstraintError as bug:
        raise BrokenRule(bug) from bug
    except apsw.Error:
        raise  # the catalogue's own trouble
    except Exception as bug:
        raise BrokenRule(bug) from bug
