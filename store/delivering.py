"""What deliveries come to, inside the commit: many at once, whoever they are for.

While they are decided the mutex is held, so they ask the catalogue together: two questions, however many mailboxes,
and one record of each kind a mailbox. What always holds: each comes to what it would come to alone, in their order.
"""

from collections.abc import Sequence

import attrs

from store.catalogue import queries
from store.catalogue.keys import Key
from store.catalogue.queries import Account, MailboxInfo
from store.catalogue.view import View
from store.errors import NoSuchFolder, NoSuchMailbox, QuotaExceeded, StoreError
from store.guard import require_client
from store.ids import FolderId, InstanceId
from store.names import INBOX, ITEM_CLASS, Added
from store.proposal import Received
from store.records import DeliveryKeyRow, DeliveryKeysPut, ItemRow, ItemsPut, Record


def decide_deliveries(
    view: View, received: Sequence[Received], *, now_ms: int
) -> tuple[list[Record], list[Added | StoreError]]:
    """The records of all of them together; and each one's answer or refusal."""
    accounts = view.accounts({one.delivery.instance for one in received})
    mailboxes: dict[InstanceId, _Mailbox] = {}
    keys: set[Key] = set()
    for one in received:
        instance, _, key, _ = one.delivery
        account = accounts.get(instance)
        if account is not None:
            if instance not in mailboxes:
                mailboxes[instance] = _mailbox(view, account)
            keys.add((account.info.no, key, one.ref.content_hash))
    accepted = view.accepted(keys)
    answers: list[Added | StoreError] = []
    for one in received:
        mailbox = mailboxes.get(one.delivery.instance)
        try:
            if mailbox is None:
                raise NoSuchMailbox(instance=one.delivery.instance)
            answers.append(mailbox.take(one, accepted, now_ms))
        except StoreError as refusal:
            answers.append(refusal)
    records: list[Record] = []
    for instance, mailbox in mailboxes.items():
        if mailbox.rows:
            records += (ItemsPut(instance, mailbox.rows), DeliveryKeysPut(instance, mailbox.keys))
    return records, answers


@attrs.define
class _Mailbox:
    """Where a mailbox's deliveries go, and what those that it took so far came to."""

    info: MailboxInfo
    head: int
    inbox: FolderId | None
    uidnext: int
    quota: int | None
    used: int
    rows: list[ItemRow] = attrs.Factory(list)
    keys: list[DeliveryKeyRow] = attrs.Factory(list)

    def take(self, one: Received, accepted: set[Key], now_ms: int) -> Added:
        """Where it went; or raises why not."""
        require_client(self.info)
        delivery, item_id, ref = one
        segment, offset, size, content_hash = ref
        accepted_as = self.info.no, delivery.key, content_hash
        if accepted_as in accepted:
            return Added(None, 0, 0, duplicate=True)
        if self.inbox is None:
            raise NoSuchFolder(folder=INBOX)
        if self.quota is not None and self.used + size > self.quota:
            raise QuotaExceeded(quota_bytes=self.quota, used_bytes=self.used, size=size)
        accepted.add(accepted_as)
        uid, modseq = self.uidnext, self.head + 1
        self.uidnext, self.head, self.used = uid + 1, modseq + 1, self.used + size
        self.rows.append(
            ItemRow(
                item_id,
                self.inbox,
                uid,
                modseq,
                delivery.received_ms,
                size,
                content_hash,
                segment,
                offset,
                0,
                (),
                ITEM_CLASS,
                (),
            )
        )
        self.keys.append(DeliveryKeyRow(delivery.key, content_hash, now_ms, modseq + 1))
        return Added(item_id, uid, modseq)


def _mailbox(view: View, account: Account) -> _Mailbox:
    used = 0 if account.quota is None else queries.used_bytes(view.db, account.info.no)
    return _Mailbox(account.info, account.info.head, account.inbox, account.uidnext, account.quota, used)
