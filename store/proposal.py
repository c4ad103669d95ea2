"""What may be proposed to the committer (`commit`): a *proposal*, decided inside the commit, or a *delivery*.

A proposal is content to be written and a function from the catalogue, as it is inside the commit, to records, or a
refusal. A delivery is one message for one INBOX, and says so in data: whatever many of them need is asked at once
(`delivering`).
"""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import apsw
import attrs

from store.catalogue.queries import MailboxInfo
from store.catalogue.view import View
from store.content.pool import SHARED
from store.content.segment import Header
from store.ids import ContentRef, InstanceId, ItemId
from store.records import Record

A = TypeVar("A")


@attrs.define
class Draft:
    """One transaction being decided: the catalogue as it is, and the records so far."""

    view: View
    instance: InstanceId
    now_ms: int
    content: Sequence[ContentRef]
    records: list[Record] = attrs.Factory(list)
    _info: MailboxInfo | None = None
    _modseq: int = 0

    @property
    def db(self) -> apsw.Connection:
        """For any question about the catalogue; `info` answers the commonest at less cost."""
        return self.view.db

    @property
    def info(self) -> MailboxInfo:
        """The mailbox instance. Raises `NoSuchMailbox`."""
        if self._info is None:
            self._info = self.view.mailbox(self.instance)
            self._modseq = self._info.head
        return self._info

    @property
    def head(self) -> int:
        """The mailbox's modseq, the changes decided so far included."""
        return max(self._modseq, self.info.head)

    def next_modseq(self) -> int:
        """The mailbox's next change number."""
        self._modseq = self.head + 1
        return self._modseq

    def see_modseq(self, modseq: int) -> None:
        """A mover brings this change number along."""
        self._modseq = max(self.head, modseq)


@attrs.frozen
class Proposal(Generic[A]):
    """What a verb wants done. `decide` fills the draft's records and returns the verb's answer, or raises."""

    instance: InstanceId
    decide: Callable[[Draft], A]
    headers: Sequence[Header] = ()
    contents: Sequence[bytes] = ()
    """New items: what their frames say, and their bytes."""
    stream: bytes = SHARED
    items: int = 1
    """How many items it may touch: what bounds a group's frame."""


class Delivery(NamedTuple):
    """A message for a mailbox's INBOX, to be there once for this key and these bytes.

    The key is what tells deliveries apart, also where a stranger chose their bytes: the bytes beside it are known by
    xxh3_128, which is for a key that was given twice by accident.
    """

    instance: InstanceId
    content: bytes
    key: bytes
    received_ms: int


class Received(NamedTuple):
    """A delivery whose content is durable, under the id that its item will have."""

    delivery: Delivery
    item_id: ItemId
    ref: ContentRef
