"""The contract between the move and a kind of mailbox: `Source`, `Target`, and the `Endpoint` that hands them out.

One contract suite (`tests/contract/test_endpoints.py`) runs on every implementation. What an endpoint cannot do it
says in its `Capabilities`, and preflight shows the operator what that costs. A rollback swaps the roles, so an
endpoint that can be rolled back to is both.

What always holds:
- **Fuzzy apply.** Every write of the mover is a state with a modseq (`change.py`), merged by
  `absent < live(modseq) < dead`. Applying twice equals applying once; dead absorbs, also before a live state came.
- **Guard.** `(mode, token)` is checked inside the endpoint's own commit. A call with a lower token than the stored one
  raises `StaleToken` and changes nothing; a higher one is stored with the effect. Clients write only while `open`, the
  mover only while `sealed` (or `retired`, for the reverse feed), else `RequestRefused`. A client at a `locked` or
  `sealed` instance gets `MailboxLocked`, at a `retired` one `MailboxMoved`.
- **Order.** When a write returns it is durable. A verb that was cancelled before it waited did not happen.
- **Bounded.** Every read names its bound; an item larger than the bound comes alone.
- **Lent.** Who was handed a side is to `aclose` it: what is held for a mailbox (connections, open files) is let go when
  the last one here is done with it, and taken up again for who comes next. A process moves ten thousand.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol, runtime_checkable

import attrs

from moverq.errors import MoveError, RequestRefused, StaleToken
from moverq.model.change import (
    BadItem,
    ChangeBatch,
    DeliveryKeyState,
    FolderState,
    ItemContent,
    ItemState,
    SettingState,
    Watermark,
)
from moverq.model.digest import FolderDigest
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId


class FenceClass(Enum):
    """How surely writers can be kept out of a locked source (design §5)."""

    A = "the source checks the guard at commit"
    B = "a proxy owns every path"
    C = "access change, kick, wait until the session list is empty twice"
    D = "best effort"


@attrs.frozen(kw_only=True)
class Capabilities:
    """What an endpoint can do. Preflight turns each False into a sentence about its cost."""

    kind: str
    keeps_identity: bool
    """Item and folder ids, UIDs, UIDVALIDITY and modseq travel with the mailbox."""
    has_feed: bool
    has_digests: bool
    fence: FenceClass
    keeps_keywords: bool = True
    keeps_properties: bool = True
    item_bytes_max: int | None = None
    has_one_writer: bool = False
    """What goes into mailboxes of one database goes through one writer, in turn."""


class GuardMode(Enum):
    """Who may write to one mailbox instance now."""

    OPEN = "open"
    LOCKED = "locked"
    SEALED = "sealed"
    RETIRED = "retired"


@attrs.frozen
class Home:
    """Where a mailbox lives: a database, and the instance in it."""

    database: str
    instance: InstanceId

    def __str__(self) -> str:
        return f"{self.database}/{self.instance.hex()[:8]}"


@attrs.frozen
class Guard:
    """A mailbox instance's guard. `home` is the redirect of a retired one."""

    mode: GuardMode
    token: int
    home: Home | None = None


@attrs.frozen(kw_only=True)
class MailboxSummary:
    """One instance in numbers."""

    mailbox_id: MailboxId
    instance: InstanceId
    guard: Guard
    folders: int
    items: int
    bytes: int
    head: Watermark


@attrs.frozen(kw_only=True)
class MailboxAccount:
    """What verification compares: tree, settings and per-folder digests, of one moment, in O(folders)."""

    head: Watermark
    folders: tuple[FolderState, ...]
    settings: tuple[tuple[str, str], ...]
    digests: tuple[tuple[FolderId, FolderDigest], ...]


@attrs.frozen(kw_only=True)
class SeedPage:
    """One page of the bulk copy, in the source's own order.

    `cursor` continues after this page (opaque, durable in the ledger); `done` says that nothing is left. Items
    that cannot be read come as `bad`, with what is known of them. Settings and delivery keys that are older than
    the watermark would never come by the feed, so the listing has them too, on whichever pages it likes.
    """

    items: tuple[ItemContent, ...]
    bad: tuple[BadItem, ...]
    cursor: bytes
    done: bool
    settings: tuple[SettingState, ...] = ()
    delivery_keys: tuple[DeliveryKeyState, ...] = ()


class StepKind(Enum):
    """One step of bringing a folder tree to another."""

    CREATE = "create"
    MOVE = "move"
    """New parent and/or new name, by identity."""
    UPDATE = "update"
    """Attributes, special use, subscription, UIDNEXT, modseq; the place stays."""
    REMOVE = "remove"
    """Only ever an empty folder: one that still holds an item is refused by `RequestRefused`."""


@attrs.frozen
class FolderStep:
    """A step of a hierarchy plan (`plan/hierarchy.py`). `folder` is the state after the step, parked names included."""

    kind: StepKind
    folder: FolderState


class Source(Protocol):
    """The side a mailbox leaves: it is listed, read, followed, and at the end locked."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def aclose(self) -> None:
        """Done with here; no other verb is called after it. Closing again does nothing."""
        ...

    async def summary(self) -> MailboxSummary:
        """Numbers for preflight and progress. O(folders)."""
        ...

    async def head(self) -> Watermark:
        """Where the change feed stands now. Taken *before* the first listing, nothing is missed."""
        ...

    async def read_hierarchy(self) -> tuple[FolderState, ...]:
        """The whole folder tree, of one moment."""
        ...

    async def read_seed(self, cursor: bytes | None, *, bytes_max: int, items_max: int) -> SeedPage:
        """The next page of the bulk copy, from the start with `cursor` None.

        An item present from the first to the last page appears exactly once; one that comes, goes or changes
        meanwhile may or may not appear, in any of its states: the feed has it.
        """
        ...

    async def read_feed(self, after: Watermark, *, changes_max: int) -> ChangeBatch:
        """What differs since `after`, oldest change first; at most `changes_max` beside the hierarchy. Never waits.

        Raises:
            FeedTrimmed: `after` is behind the horizon, beyond the head, of another timeline, or of another instance.
        """
        ...

    async def wait_feed(self, after: Watermark) -> None:
        """Return as soon as the feed stands beyond `after` (at once, if it does)."""
        ...

    async def fetch(
        self, item_ids: Sequence[ItemId], *, bytes_max: int
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...], tuple[ItemId, ...]]:
        """Bytes of as many of these items as fit, in the order asked for: (read, bad, not yet read).

        An item that is gone by now is in none of the three. The state returned is the present one.
        """
        ...

    async def account(self) -> MailboxAccount:
        """Tree, settings, per-folder digests and head, of one moment, from maintained sums. O(folders)."""
        ...

    async def recount(self) -> MailboxAccount:
        """The same from the items themselves, in O(items): what `account` is checked against. Never while locked."""
        ...

    async def guard(self) -> Guard: ...

    async def claim(self, token: int) -> Guard:
        """Store `token` without changing the mode: from now on every lower one is stale."""
        ...

    async def lock(self, token: int) -> Watermark:
        """No client write is accepted from now on; returns the lock's own place in the feed.

        A feed that was read through this watermark holds every acknowledged write. Locking a locked mailbox with
        the same or a higher token returns a watermark with the same property.
        """
        ...

    async def unlock(self, token: int) -> None:
        """Clients may write again. A change of its own, as `lock` is. A sealed or retired instance is refused."""
        ...

    async def retire(self, token: int, home: Home) -> None:
        """Sealed for good, with a redirect: clients get `MailboxMoved(home)`. From whatever mode it was in."""
        ...

    async def remove(self, token: int, *, keep_until_ms: int) -> None:
        """Soft-delete a retired or sealed instance: kept, unreachable, purged by `purge` after the date.

        It answers only `guard`, `claim`, `remove` and `purge` from now on, `exists` with False, the rest with
        `NotFound`. Gone already: nothing happens.

        Raises:
            RequestRefused: the instance is open or locked.
        """
        ...

    async def purge(self, token: int) -> None:
        """Destroy a soft-deleted instance, by id *and* token. Gone already: nothing happens.

        Raises:
            RequestRefused: it is not soft-deleted, or its date has not come.
        """
        ...


def never_again(instance: InstanceId, token: int, *, last: int) -> MoveError:
    """What who would make a purged instance again is told; `last` is its last token. A mover that slept through the
    purge has no guard left to stop it, and what it made nobody would look for."""
    if token < last:
        return StaleToken(held=token, seen=last)
    return RequestRefused(why=f"instance {instance.hex()} was purged, and is not made again")


class Target(Protocol):
    """The side a mailbox goes to: made sealed, written by the mover alone, opened after the commit."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def aclose(self) -> None: ...

    async def exists(self) -> bool:
        """Is there an instance with this id here? How a restart finds the target it made."""
        ...

    async def create(self, mailbox_id: MailboxId, token: int) -> None:
        """An empty, sealed instance. One that exists already with this id is claimed; one that was purged is never
        made again (`never_again`)."""
        ...

    async def summary(self) -> MailboxSummary: ...

    async def guard(self) -> Guard: ...

    async def claim(self, token: int) -> Guard: ...

    async def seal(self, token: int) -> None:
        """For a rollback: a retired instance becomes the sealed target of the move back. Others are refused."""
        ...

    async def read_hierarchy(self) -> tuple[FolderState, ...]: ...

    async def occupied_folders(self) -> frozenset[FolderId]:
        """Folders that hold at least one live item. O(folders)."""
        ...

    async def apply_folders(self, steps: Sequence[FolderStep], token: int) -> None:
        """Take these steps in order, each leaving a tree; repeated steps do no harm.

        A folder to create that is there already stays as it is; a step on a folder that is not there does nothing:
        the next plan, from what is there then, sees both. UIDNEXT never falls. Steps before a refused one stand.

        Raises:
            RequestRefused: a sibling has the name, the place is inside the folder itself, or a folder to remove
                holds an item or a folder.
        """
        ...

    async def write_items(self, items: Sequence[ItemContent], token: int) -> tuple[BadItem, ...]:
        """Merge these items, bytes included; returns those the target refuses, with the reason.

        Durable on return. An item already there with the same or a higher modseq, or dead, is left as it is. So is
        one whose folder the target does not have (no bad item: the hierarchy that names the folder comes by the
        feed, and the item again with it). Bytes that are not what the state's hash says, and a UID that another
        item holds, are refused.
        """
        ...

    async def apply_changes(self, batch: ChangeBatch, token: int) -> tuple[ItemId, ...]:
        """Merge the batch's item states, tombstones, settings and delivery keys (not its hierarchy).

        Returns the ids of live items whose bytes, folder or free UID the target does not have, and leaves these as
        they are: the caller fetches and writes them, before it counts the batch as held.
        Advances the instance's head to `batch.through.modseq` at least, so modseqs never go back for a client.
        """
        ...

    async def account(self) -> MailboxAccount: ...

    async def recount(self) -> MailboxAccount: ...

    async def open(self, token: int) -> None:
        """Clients may write. Called only after the register says so."""
        ...

    async def remove(self, token: int, *, keep_until_ms: int) -> None: ...

    async def purge(self, token: int) -> None: ...


@runtime_checkable
class Remarking(Protocol):
    """A target whose mail system cannot keep everything as it is given, and that tells what became of it."""

    async def remarks(self) -> tuple[str, ...]:
        """Sentences for the report: what was renamed, left out, or kept in another form."""
        ...


@attrs.frozen(kw_only=True)
class Room:
    """What a quota still lets in. None: no bound."""

    bytes: int | None = None
    items: int | None = None
    costs: tuple[str, ...] = ()
    """What else is to be known before anything is written there, as sentences of preflight's."""


@runtime_checkable
class Quotaed(Protocol):
    """A target whose mail system has quotas of its own, and says them before anything is written."""

    async def room(self, mailbox_id: MailboxId) -> Room:
        """For this mailbox, which need not be made yet."""
        ...


class Endpoint(Protocol):
    """One database of one kind, and the mailbox instances in it."""

    @property
    def name(self) -> str:
        """The database's name in the directory."""
        ...

    def source(self, instance: InstanceId) -> Source:
        """To be closed by who asked."""
        ...

    def target(self, instance: InstanceId) -> Target:
        """To be closed by who asked."""
        ...

    async def instances(self) -> Sequence[MailboxSummary]:
        """Every instance here, whatever its guard: for reports of what no directory entry names."""
        ...


__all__ = [
    "BadItem",
    "Capabilities",
    "ChangeBatch",
    "Endpoint",
    "FenceClass",
    "FolderStep",
    "Guard",
    "GuardMode",
    "Home",
    "ItemContent",
    "ItemState",
    "MailboxAccount",
    "MailboxSummary",
    "Quotaed",
    "Remarking",
    "Room",
    "SeedPage",
    "Source",
    "StepKind",
    "Target",
    "never_again",
]
