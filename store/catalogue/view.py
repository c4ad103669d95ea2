"""The catalogue inside one commit: as it is, with what this commit has decided so far.

A group asks the same few questions about the same few mailboxes again and again, and each of its members writes a row
or two. So what was looked up once is remembered, and rows are written together: at the latest when somebody asks the
catalogue itself (`db`), so nobody ever reads it without them.

What always holds: what is remembered is what the catalogue would answer. New items and delivery keys carry it along;
any other record makes this forget it all.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import apsw

from store.catalogue import queries
from store.catalogue.apply import Applier
from store.catalogue.keys import Key, RecentKeys, old_keys
from store.catalogue.queries import Account, MailboxInfo
from store.errors import NoSuchMailbox
from store.ids import InstanceId
from store.records import DeliveryKeysPut, FeedCut, ItemsPut, MailboxPurged, Record


class BrokenRule(Exception):
    """Records break a rule of the catalogue: a bug of their maker, here as it showed itself."""

    def __init__(self, bug: Exception) -> None:
        super().__init__(repr(bug))
        self.bug = bug


class View:
    """See the module."""

    def __init__(self, db: apsw.Connection, recent: RecentKeys) -> None:
        self._db = db
        self._recent = recent
        self._looked_at_keys = self._gave_keys = self._took_keys = False
        self._applier = Applier(db)
        self._accounts: dict[InstanceId, Account] = {}

    @property
    def db(self) -> apsw.Connection:
        """The catalogue, all that was applied included. Raises `BrokenRule`."""
        self.flush()
        return self._db

    def accounts(self, instances: Collection[InstanceId]) -> Mapping[InstanceId, Account]:
        """Those of these mailbox instances that there are, and maybe others."""
        unknown = {instance for instance in instances if instance not in self._accounts}
        if unknown:
            self._accounts.update(queries.accounts(self.db, unknown))
        return self._accounts

    def account(self, instance: InstanceId) -> Account:
        """Raises `NoSuchMailbox`."""
        account = self.accounts((instance,)).get(instance)
        if account is None:
            raise NoSuchMailbox(instance=instance)
        return account

    def mailbox(self, instance: InstanceId) -> MailboxInfo:
        """Raises `NoSuchMailbox`."""
        return self.account(instance).info

    def accepted(self, keys: Collection[Key]) -> set[Key]:
        """Those of these deliveries that were accepted."""
        self._look_at_keys()
        found = old_keys(self.db, keys)
        if not self._took_keys:
            found |= self._recent.known(keys)
        if self._gave_keys:
            found |= self._recent.later(self.db).intersection(keys)
        return found

    def _look_at_keys(self) -> None:
        """Before this commit changes any."""
        if not self._looked_at_keys:
            self._recent.look(self._db)
            self._looked_at_keys = True

    def apply(self, records: Sequence[Record]) -> None:
        """The catalogue is as these records say, for all who ask here. Raises `BrokenRule`."""
        for record in records:
            if isinstance(record, DeliveryKeysPut | FeedCut | MailboxPurged):
                self._look_at_keys()
                if isinstance(record, DeliveryKeysPut):
                    self._gave_keys = True
                else:
                    self._took_keys = True
            if isinstance(record, ItemsPut | DeliveryKeysPut):
                self._carry(record)
            else:
                self._accounts.clear()
        with _rules():
            self._applier.gather(records)

    def _carry(self, record: ItemsPut | DeliveryKeysPut) -> None:
        account = self._accounts.get(record.instance)
        if account is None:
            return
        info, uidnext = account.info, account.uidnext
        if isinstance(record, ItemsPut) and account.inbox is not None:
            uids = [row.uid for row in record.rows if row.folder_id == account.inbox]
            uidnext = max([uidnext - 1, *uids]) + 1
        head = max([info.head, *[row.modseq for row in record.rows]])
        self._accounts[record.instance] = account._replace(info=info._replace(head=head), uidnext=uidnext)

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
