"""The contract's verbs on one mirrored mailbox, source and target in one: a rollback swaps the roles.

Reads come from the mirror after a refresh, so they say what is there now. A mover's writes go into the mirror as
intents, and are done when the verb returns. The guard lives in the mirror: it keeps movers apart, but no mail client
out. That is what the fence does, where there are hooks for it; see `hooks`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import msgpack

from moverq.endpoints.base import (
    Capabilities,
    FenceClass,
    FolderStep,
    Guard,
    GuardMode,
    Home,
    MailboxAccount,
    MailboxSummary,
    Room,
    SeedPage,
)
from moverq.endpoints.mirrored import folder_steps, intents
from moverq.endpoints.mirrored.hooks import run_hook
from moverq.endpoints.mirrored.intents import Merged
from moverq.endpoints.mirrored.mirror import FolderPlace, Located, Mirror, Standing
from moverq.endpoints.mirrored.normal_form import content_hash, is_same
from moverq.endpoints.mirrored.paging import page_rows, read_rows
from moverq.endpoints.mirrored.refresh import refresh
from moverq.endpoints.mirrored.session import MailSession, MirrorFile
from moverq.endpoints.mirrored.utf7 import from_utf7
from moverq.errors import EndpointBusy, NotFound, RequestRefused
from moverq.flow import clock
from moverq.flow.batches import in_batches
from moverq.model.change import BadItem, ChangeBatch, FolderState, ItemContent, ItemState, Watermark
from moverq.model.digest import FolderDigest
from moverq.model.ids import FolderId, ItemId, MailboxId
from moverq.words import counted

if TYPE_CHECKING:
    from moverq.endpoints.mirrored.endpoint import MirroredEndpoint

T = TypeVar("T")

RECOUNT_BYTES: Final = 8 << 20
RECOUNT_ITEMS: Final = 512


@attrs.define(eq=False)
class MirroredMailbox:
    """See the module."""

    endpoint: "MirroredEndpoint"
    session: MailSession
    _has_looked: bool = False
    """Taking the lock was a look, which nobody has made use of yet."""
    _told: frozenset[ItemId] = frozenset()
    """What the feed told last, and nobody has fetched since."""
    _is_closed: bool = False

    @property
    def _mirror(self) -> MirrorFile:
        return self.session.mirror

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            kind=self.session.kind,
            keeps_identity=False,
            has_feed=True,
            has_digests=False,
            fence=FenceClass.C if self.session.lock_command else FenceClass.D,
            keeps_properties=False,
            item_bytes_max=self.session.item_bytes_max,
        )

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self.endpoint.leave(self.session)

    # ---- reads

    async def exists(self) -> bool:
        try:
            await self._mirror.ask(Mirror.standing)
        except NotFound:
            return False
        return True

    async def summary(self) -> MailboxSummary:
        await self._look()
        return await self._mirror.ask(Mirror.summary)

    async def head(self) -> Watermark:
        return (await self._look()).watermark

    async def read_hierarchy(self) -> tuple[FolderState, ...]:
        if not (await self._mirror.ask(Mirror.standing)).is_movers:
            await refresh(self.session)
        return tuple(row.state for row in await self._mirror.ask(Mirror.folders))

    async def occupied_folders(self) -> frozenset[FolderId]:
        return await self._mirror.ask(Mirror.occupied_folders)

    async def read_feed(self, after: Watermark, *, changes_max: int) -> ChangeBatch:
        await self._mirror.ask(partial(Mirror.check_watermark, after=after))
        if not self._has_looked:
            await self._look()
        self._has_looked = False
        batch = await self._mirror.ask(partial(Mirror.feed, after=after, changes_max=changes_max))
        self._told = frozenset([state.item_id for state in batch.items])
        return batch

    async def wait_feed(self, after: Watermark) -> None:
        await self._mirror.ask(partial(Mirror.check_watermark, after=after))
        while True:
            await self.session.arm()
            if (await self._look()).head > after.modseq:
                return
            await self.session.wait_told(at_most_s=self.endpoint.system.poll_s)

    async def account(self) -> MailboxAccount:
        await self._look()
        return await self._mirror.ask(Mirror.account)

    async def remarks(self) -> tuple[str, ...]:
        return await self._mirror.ask(Mirror.remarks)

    async def room(self, mailbox_id: MailboxId) -> Room:
        return await self.endpoint.system.room(await self.endpoint.user_of(mailbox_id))

    async def _look(self) -> Standing:
        """A refresh; where the mirror is right, after what is still to be done."""
        if (await self._mirror.ask(Mirror.standing)).is_movers:
            await self.session.settle()
            await self.session.work_off()
        standing = await refresh(self.session)
        if standing.is_movers:
            await self.session.work_off()
        return standing

    # ---- bytes

    async def read_seed(self, cursor: bytes | None, *, bytes_max: int, items_max: int) -> SeedPage:
        if cursor is None:
            await self._look()
        after = msgpack.unpackb(cursor) if cursor is not None else 0
        read_page = partial(self.session.read_page, after, bytes_max=bytes_max, items_max=items_max)
        page, contents, missing = await self._or_look_again(read_page)
        read, bad = await self._known(page.rows, contents, missing, is_movers=page.is_movers)
        settings, keys = await self._mirror.ask(Mirror.listing_extras) if cursor is None else ((), ())
        return SeedPage(
            items=read,
            bad=bad,
            cursor=msgpack.packb(page.rows[-1].seq if page.rows else after),
            done=page.done,
            settings=settings,
            delivery_keys=keys,
        )

    async def fetch(
        self, item_ids: Sequence[ItemId], *, bytes_max: int
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...], tuple[ItemId, ...]]:
        # What the feed has told is read where it was then. What has gone from there since, the feed tells again.
        if not self._told.issuperset(item_ids):
            await self._look()
        self._told = frozenset()
        return await self._or_look_again(partial(self._fetch, item_ids, bytes_max=bytes_max))

    async def _or_look_again(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` gives. A folder may have another name by now than the mirror knows: then, once, after a look."""
        try:
            return await read()
        except EndpointBusy:
            await self._look()
            return await read()

    async def _fetch(
        self, item_ids: Sequence[ItemId], *, bytes_max: int
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...], tuple[ItemId, ...]]:
        found, places = await self._mirror.ask(partial(_found, item_ids=item_ids))
        rows = [found[item_id] for item_id in item_ids if item_id in found]
        page = next(in_batches(rows, lambda row: row.state.size, bytes_max=bytes_max), [])
        read, bad = await self._read(page, places)
        return read, bad, tuple(row.state.item_id for row in rows[len(page) :])

    async def _read(
        self, rows: Sequence[Located], places: Mapping[FolderId, FolderPlace]
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...]]:
        """The bytes of these items, in their order; those whose hash nobody knew yet get it."""
        is_movers = (await self._mirror.ask(Mirror.standing)).is_movers
        return await self._known(rows, *await read_rows(self.session, rows, places), is_movers=is_movers)

    async def _known(
        self, rows: Sequence[Located], contents: Mapping[int, bytes], missing: Mapping[int, str], *, is_movers: bool
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...]]:
        """Of the bytes that came: the items with their hashes, which the mirror knows from now on.

        Where the mirror is right (`is_movers`), what went in is what an item counts as, in whatever form the server
        keeps it.
        """
        read: list[ItemContent] = []
        bad: list[BadItem] = []
        news: list[tuple[Located, ItemState]] = []
        for row in rows:
            state, content = row.state, contents.get(row.seq)
            if content is None:
                if row.seq in missing:
                    bad.append(BadItem(state, "CorruptItem", missing[row.seq]))
                continue
            if not content and state.size:  # an empty message is listed as one
                bad.append(BadItem(state, "CorruptItem", f"it is listed with {state.size} bytes, and none were given"))
                continue
            found_hash, known_hash = content_hash(content), state.content_hash
            if known_hash != found_hash:
                state = tuple.__new__(ItemState, (*state[:5], len(content), found_hash, *state[7:]))
                is_its_form = known_hash and self._is_same(content, row)
                if not (is_its_form and is_movers):
                    news.append((row, state))
            read.append(ItemContent(state, content))
        if news:
            await self._mirror.ask(partial(Mirror.note_read, read=news))
        return tuple(read), tuple(bad)

    def _is_same(self, content: bytes, row: Located) -> bool:
        return is_same(content, row.state.content_hash, row.normal_hash, self.session.normal)

    async def recount(self) -> MailboxAccount:
        account = await self.account()
        digests = {folder.folder_id: FolderDigest() for folder in account.folders}
        after, done = 0, False
        rows = partial(page_rows, items_max=RECOUNT_ITEMS, bytes_max=RECOUNT_BYTES)
        while not done:
            page = await self._mirror.ask(partial(rows, after=after))
            read, _ = await self._read(page.rows, page.places)
            known = {row.state.item_id: row for row in page.rows}
            for item in read:
                row = known[item.state.item_id]
                same = self._is_same(item.content, row)
                state = row.state if same else item.state
                digests[state.folder_id] = digests[state.folder_id].plus(state)
            after, done = page.rows[-1].seq if page.rows else after, page.done
        return attrs.evolve(await self._mirror.ask(Mirror.account), digests=tuple(sorted(digests.items())))

    # ---- the guard

    async def guard(self) -> Guard:
        return (await self._mirror.ask(partial(Mirror.standing, removed=True))).guard

    async def claim(self, token: int) -> Guard:
        return await self._mirror.ask(partial(Mirror.claim, token=token))

    async def lock(self, token: int) -> Watermark:
        """Announced in the mirror before the hook keeps anybody out, so that a restart lets them in again."""
        allowed = (GuardMode.OPEN, GuardMode.LOCKED)
        standing = await self._mirror.ask(partial(Mirror.turn, token=token, mode=GuardMode.LOCKED, allowed=allowed))
        await self._hook(self.session.lock_command, standing)
        standing = await refresh(self.session, afresh=True)
        self._has_looked = not standing.is_movers  # then there may be something left to do first
        return standing.watermark

    async def unlock(self, token: int) -> None:
        """The hook first: a mailbox that says open must be open."""
        self._has_looked = False
        standing = await self._mirror.ask(partial(_checked, token=token, allowed=(GuardMode.OPEN, GuardMode.LOCKED)))
        if standing.guard.mode is GuardMode.LOCKED:
            await self._hook(self.session.release_command, standing)
        allowed = (GuardMode.OPEN, GuardMode.LOCKED)
        await self._mirror.ask(partial(Mirror.turn, token=token, mode=GuardMode.OPEN, allowed=allowed))

    async def retire(self, token: int, home: Home) -> None:
        await self._mirror.ask(
            partial(Mirror.turn, token=token, mode=GuardMode.RETIRED, allowed=tuple(GuardMode), home=home)
        )

    async def seal(self, token: int) -> None:
        allowed = (GuardMode.RETIRED, GuardMode.SEALED)
        await self._mirror.ask(partial(Mirror.turn, token=token, mode=GuardMode.SEALED, allowed=allowed))

    async def open(self, token: int) -> None:
        allowed = (GuardMode.SEALED, GuardMode.OPEN)
        standing = await self._mirror.ask(partial(_checked, token=token, allowed=allowed))
        if standing.guard.mode is GuardMode.SEALED:
            await self._hook(self.session.release_command, standing)
        await self._mirror.ask(partial(Mirror.turn, token=token, mode=GuardMode.OPEN, allowed=allowed))
        await self._mirror.ask(_adopt_strangers)

    async def _hook(self, command: Sequence[str], standing: Standing) -> None:
        if command:
            await run_hook(command, user=standing.user, endpoint=self.session.name)

    # ---- beginning and end

    async def create(self, mailbox_id: MailboxId, token: int) -> None:
        """The user's mailbox at the server is the target: it must be there, and hold no mail that others put in."""
        if await self.exists():
            standing = await self._mirror.ask(Mirror.standing)
            if standing.mailbox_id != mailbox_id:
                raise RequestRefused(why=f"instance {self.session.instance.hex()} is another mailbox's")
            await self.claim(token)
            return
        try:
            await self.guard()
        except NotFound:
            pass
        else:
            raise RequestRefused(why=f"instance {self.session.instance.hex()} is soft-deleted")
        user = await self.endpoint.user_of(mailbox_id)
        await self.endpoint.check_alone(self.session.instance)
        were_there = await self._check_empty(user)
        await self._mirror.make(
            partial(
                Mirror.make,
                mailbox_id=mailbox_id,
                instance=self.session.instance,
                user=user,
                mode=GuardMode.SEALED,
                token=token,
                were_there=were_there,
            )
        )

    async def _check_empty(self, user: str) -> dict[bytes, bool]:
        """The folders that are there, and whether they are subscribed."""
        listed = await self.endpoint.system.list_folders(user)
        holding = [one for one in listed if one.items]
        if holding:
            count = sum(one.items for one in holding)
            raise RequestRefused(
                why=f"the mailbox of {user} at {self.endpoint.name} holds {counted(count, 'message')} already (in "
                f"{from_utf7(holding[0].wire)}"
                + (f" and {counted(len(holding) - 1, 'more folder')}" if len(holding) > 1 else "")
                + "); a move goes into an empty mailbox, so that nothing of it is mixed or doubled"
            )
        return {one.wire: one.subscribed for one in listed}

    async def remove(self, token: int, *, keep_until_ms: int) -> None:
        try:
            await self._mirror.ask(partial(Mirror.remove, token=token, keep_until_ms=keep_until_ms))
        except NotFound:
            await self._mirror.check_gone(token)

    async def purge(self, token: int) -> None:
        """What a given-up move wrote at a sealed target is taken back. A retired mailbox's mail is its server's: that
        the mover forgets it is all, and an administrator deletes it there."""
        try:
            standing = await self._mirror.ask(partial(Mirror.standing, removed=True))
        except NotFound:
            await self._mirror.check_gone(token)
            return
        await self._mirror.ask(partial(Mirror.check_purge, token=token, now_ms=clock.now_ms()))
        if standing.guard.mode is GuardMode.SEALED:
            await self._take_back(token)
        await self.session.aclose()
        await self._mirror.destroy(token)

    async def _take_back(self, token: int) -> None:
        await self._mirror.ask(partial(_wanted_empty, token=token))
        await self.session.settle()
        await self._mirror.ask(partial(_wanted_empty, token=token))
        await self.session.work_off()
        rows, were_there = await self._mirror.ask(lambda mirror: (mirror.folders(), mirror.were_there()))
        async with self.session.places() as places:
            for row in sorted(rows, key=lambda row: len(row.wire), reverse=True):
                if row.wire != b"INBOX" and not row.native and row.wire not in were_there:
                    await folder_steps.delete_if_empty(places, row)
            subscribed = {row.wire: row.state.subscribed for row in rows}
            for wire, was_subscribed in were_there.items():
                if subscribed.get(wire) != was_subscribed:  # one without a row the move made use of, for a while
                    await places.subscribe(wire, was_subscribed)

    # ---- writes

    async def apply_folders(self, steps: Sequence[FolderStep], token: int) -> None:
        await folder_steps.take_steps(self.session, steps, token)

    async def write_items(self, items: Sequence[ItemContent], token: int) -> tuple[BadItem, ...]:
        await self.session.greet()
        with self._mirror.intending() as intent:
            merge = partial(
                intents.merge_items,
                items=items,
                token=token,
                intent=intent,
                item_bytes_max=self.session.item_bytes_max,
                can_move=self.session.can_move,
                as_kept=self.session.as_kept,
                normal_hash=self.session.normal_hash,
            )
            merged = await self._mirror.ask(
                partial(_unless_in_doubt, merge=merge, at_work=frozenset(self._mirror.intents))
            )
            if merged is None:
                await self.session.settle()
                merged = await self._mirror.ask(merge)
            refused = await self.session.append_all(merged, token) if merged.appends else ()
        if await self._mirror.ask(partial(intents.is_anything_left, at_work=frozenset(self._mirror.intents))):
            await self.session.settle()
            await self.session.work_off()
        return (*merged.bad, *refused)

    async def apply_changes(self, batch: ChangeBatch, token: int) -> tuple[ItemId, ...]:
        await self.session.greet()
        await self.session.settle()
        merged = await self._mirror.ask(
            partial(intents.merge_changes, batch=batch, token=token, can_move=self.session.can_move)
        )
        await self.session.work_off()
        return merged.missing


def _found(mirror: Mirror, item_ids: Sequence[ItemId]) -> tuple[dict[ItemId, Located], dict[FolderId, FolderPlace]]:
    return mirror.find(item_ids), mirror.places()


def _checked(mirror: Mirror, *, token: int, allowed: Sequence[GuardMode]) -> Standing:
    """The guard as it stands, if this token may turn it from there."""
    mirror.check_token(token)
    standing = mirror.standing()
    if standing.guard.mode not in allowed:
        raise RequestRefused(why=f"the mailbox is {standing.guard.mode.value}, and that cannot be turned so")
    return standing


def _unless_in_doubt(mirror: Mirror, *, merge: Callable[[Mirror], Merged], at_work: Iterable[int]) -> Merged | None:
    """None: an intent is in doubt, which may be for what is to be merged."""
    return None if intents.in_doubt(mirror, at_work) else merge(mirror)


def _wanted_empty(mirror: Mirror, *, token: int) -> None:
    """Nothing that the mover wrote is wanted any more."""
    with mirror.changing():
        mirror.check_token(token)
        mirror.db.execute("UPDATE mailbox SET token = ?", (token,))
        mirror.db.execute(
            "INSERT OR IGNORE INTO to_expunge (folder_id, server_validity, server_uid) "
            "SELECT i.folder_id, f.server_validity, i.server_uid FROM items i "
            "JOIN folders f USING (folder_id) WHERE i.server_uid IS NOT NULL"
        )
        mirror.db.execute(
            "INSERT OR IGNORE INTO to_expunge (folder_id, server_validity, server_uid) "
            "SELECT from_folder, server_validity, server_uid FROM to_move"
        )
        mirror.db.execute("DELETE FROM to_move")
        mirror.db.execute("DELETE FROM items WHERE server_uid IS NOT NULL")
        mirror.db.execute("DELETE FROM sums")


def _adopt_strangers(mirror: Mirror) -> None:
    """The mailbox is its user's again: what came beside the mover is the user's mail, and new in the feed. A folder
    that holds some is looked into in full."""
    with mirror.changing():
        for (folder_id,) in list(mirror.db.execute("SELECT DISTINCT folder_id FROM strangers")):
            mirror.db.execute(
                "UPDATE folders SET server_modseq = 0, server_items = -1 WHERE folder_id = ?", (folder_id,)
            )
        mirror.db.execute("DELETE FROM strangers")
        mirror.db.execute("DELETE FROM doubtful")
