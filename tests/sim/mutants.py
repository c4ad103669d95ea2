"""Wrong variants of the engine, each one tempting, each to be caught by name.

A mutant is a patched seam, and exists only here: the product has no switch for it. Most are looked for by the
simulation, among the faults that bring them out (`faults`); a few concern what no run can meet, and are looked for by
the test that claims it (`test`), run with `-p tests.sim.mutants` and `MOVERQ_MUTANT` naming the mutant.

The first ten are those of the model of the cutover, in its names.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import apsw
import attrs
import trio

from moverq.directory.directory import Register
from moverq.directory.memory import MemoryDirectory
from moverq.endpoints.mirrored import intents
from moverq.endpoints.mirrored.mirror import Located, Mirror
from moverq.endpoints.store import StoreMailbox, translated
from moverq.errors import RegisterChanged
from moverq.job import Job
from moverq.ledger.ledger import Ledger
from moverq.model.digest import FolderDigest
from moverq.model.facts import CommitIntent
from moverq.model.ids import RequestId, new_id
from moverq.model.standing import Standing
from moverq.phases import clean_up, finalize
from moverq.phases.follow import drain, forward
from moverq.plan.verification import check_accounts, digests_of
from moverq.session import Place, Session
from store import guard, mover
from store.catalogue.keys import Key
from store.catalogue.schema import read_applied
from store.catalogue.view import View
from store.commit import Committer
from store.database import _Resources
from store.feed import Watch
from store.frame import FrameKind, encode
from store.lane import Group, Lane, answer
from store.log.log import Log
from store.records import Mode

Patches = Callable[[ExitStack], None]


@attrs.frozen
class Mutant:
    """A wrong variant. `caught`: rules of which one must be broken; `test`: a test that must fail instead."""

    name: str
    what: str
    build: Patches = attrs.field(repr=False)
    caught: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    test: str | None = None
    first: int = 0
    """The seed to begin with: one that caught it once, to save time; it may be any."""
    is_busy: bool = False
    """Brought out by a client that never rests."""
    splits: bool = False
    """Brought out where blocking calls overlap."""
    verbs: tuple[str, ...] = ()
    """What the administrator does besides moving."""

    def __str__(self) -> str:
        return self.name


@contextmanager
def built(mutant: Mutant) -> Iterator[None]:
    """Inside, the engine is this mutant."""
    with ExitStack() as patches:
        mutant.build(patches)
        yield


MUTANTS: list[Mutant] = []


def mutant(name: str, **how: Any) -> Callable[[Patches], Patches]:
    def add(build: Patches) -> Patches:
        assert build.__doc__ is not None
        MUTANTS.append(Mutant(name, build.__doc__, build, **how))
        return build

    return add


I1, I2, I3, I4, I5 = (
    "I1 what was acknowledged is at the home",
    "I2 never two open mailboxes",
    "I3 open is where the register says",
    "I4 an epoch has one winner",
    "I5 no effect of a token after a higher one",
)
I7, I8, I9, I11 = (
    "I7 no unlock while the commit is in doubt",
    "I8 no mover writes to an open target, no client to a closed one",
    "I9 a purged item never comes back",
    "I11 what is below the watermark is at the target",
)
I10, I22 = "I10 a source item is at the target once", "I22 recovery is idempotent"
I12, I15, I16, I17 = (
    "I12/I18 both sides are equal when the commit is decided",
    "I15 a delivery is there once",
    "I16 a client sees its write",
    "I17 names keep their meaning",
)
I19, I20, I21, I23 = (
    "I19 a rebuilt catalogue is the live one",
    "I20 a log without damage",
    "I21 no effect without an earlier durable intent",
    "I23 nothing is destroyed early",
)
LIVENESS = "liveness: all ends once faults stop"
ANSWERED = "liveness: beside an open mailbox nobody waits"


# ---- those of the model of the cutover


@mutant("late_writer", caught=(I1, I12, I16, I17), is_busy=True, first=8)
def late_writer(patches: ExitStack) -> None:
    """A write that began before the lock may end after it."""
    _open_to_clients(patches, lambda info: info.mode is Mode.LOCKED)


@mutant("abort_nocas", caught=(I2, I3, I7, I21), faults=("asleep at the register",) * 3, first=13)
def abort_nocas(patches: ExitStack) -> None:
    """An attempt in doubt is given up without winning the register first."""

    async def settle_register(ledger: Any, directory: Any, request: Any, *, token: int, facts: Any) -> Any:
        register = (await directory.recipient(request.mailbox_id)).register
        if facts.has(CommitIntent) and register.home == request.source:
            await ledger.write(request.request_id, token, forget=(CommitIntent,))
            facts = facts.minus(CommitIntent)
        return register, facts

    patches.enter_context(patch("moverq.job.settle_register", settle_register))
    patches.enter_context(patch.object(finalize, "settle_register", settle_register))


@mutant("lock_ttl", caught=(I1, I12, I16, I17), faults=("slow disk", "slow disk"), is_busy=True, first=24)
def lock_ttl(patches: ExitStack) -> None:
    """A lock ends by itself after a while."""
    since: dict[bytes, float] = {}
    lock = guard.lock

    def noted(draft: Any, token: int) -> int:
        since.setdefault(draft.instance, trio.current_time())
        return lock(draft, token)

    patches.enter_context(patch.object(guard, "lock", noted))
    _open_to_clients(
        patches, lambda info: info.mode is Mode.LOCKED and trio.current_time() > since.get(info.instance, 0.0) + 0.01
    )


@mutant("no_source_token", caught=(I5, I3, I7, I8), faults=("pause", "pause", "pause"))
def no_source_token(patches: ExitStack) -> None:
    """An endpoint takes effects of any token."""
    patches.enter_context(patch.object(guard, "require_token", lambda info, token: None))


@mutant("intent_unfenced", caught=(I5, I7, I12, I21), faults=("pause", "pause", "pause"))
def intent_unfenced(patches: ExitStack) -> None:
    """A fact is written whoever has taken the ledger over since."""

    def held(self: Ledger, request_id: RequestId, token: int) -> Standing:
        return self._standing(request_id)

    patches.enter_context(patch.object(Ledger, "_held", held))


@mutant("open_before_cas", caught=(I2, I3))
def open_before_cas(patches: ExitStack) -> None:
    """The target is opened before the register says so."""
    relocate = finalize._relocate

    async def early(t: Any) -> Any:
        await t.target.open(t.token)
        return await relocate(t)

    patches.enter_context(patch.object(finalize, "_relocate", early))


@mutant("sync_before_lock", caught=(I12,), is_busy=True, first=24)
def sync_before_lock(patches: ExitStack) -> None:
    """The source is drained and compared, and locked afterwards."""

    async def drain_and_verify(t: Any, attempt: Any) -> Any:
        carrier = forward(t)
        await drain(t, carrier)
        await carrier.bring_tree(await t.source.read_hierarchy())
        source, target, ledger = await t.source.account(), await t.target.account(), await t.item_map.account()
        found = check_accounts(source, target, ledger, exact=True)
        await t.source.lock(t.token)
        reverse = finalize.ReverseWatermark(watermark=target.head)
        return found, (digests_of(source, target, ledger), reverse)

    patches.enter_context(patch.object(finalize, "_drain_and_verify", drain_and_verify))


@mutant("delete_before_cas", caught=(I23,))
def delete_before_cas(patches: ExitStack) -> None:
    """The source is deleted before the register names the target."""
    relocate = finalize._relocate

    async def early(t: Any) -> Register:
        await t.source.retire(t.token, t.target_home)
        await t.source.remove(t.token, keep_until_ms=t.now_ms())
        return await relocate(t)

    patches.enter_context(patch.object(finalize, "_relocate", early))


@mutant("mirror_open", caught=(I5, I8, I3, I17), faults=("pause", "pause", "pause"))
def mirror_open(patches: ExitStack) -> None:
    """A mover's writes are taken by an open target, whatever the token."""

    def require(draft: Any, token: int) -> None:
        guard.present(draft)

    patches.enter_context(patch.object(guard, "require_mover", require))
    patches.enter_context(patch.object(mover, "require_mover", require))


@mutant("cas_no_epoch", caught=(I2, I3, I4, I21, I22), faults=("asleep at the register",) * 3, first=13)
def cas_no_epoch(patches: ExitStack) -> None:
    """The register is compared by its home alone."""
    relocate = MemoryDirectory.relocate

    async def by_home(self: MemoryDirectory, mailbox_id: Any, *, expected: Register, home: Any) -> Register:
        present = self._recipient(mailbox_id).register
        if present.home != expected.home:
            raise RegisterChanged(expected=str(expected), present=str(present))
        return await relocate(self, mailbox_id, expected=present, home=home)

    patches.enter_context(patch.object(MemoryDirectory, "relocate", by_home))


# ---- the copy and the feed


@mutant("naive_fuzzy_copy", test="tests/contract/test_endpoints_target.py")
def naive_fuzzy_copy(patches: ExitStack) -> None:
    """What comes last wins, whatever its change number."""
    patches.enter_context(patch.object(mover._Merge, "is_news", lambda self, row: True))


@mutant("journal_left_behind", caught=(I12, I15))
def journal_left_behind(patches: ExitStack) -> None:
    """The delivery keys stay where the mailbox was."""
    apply_changes = StoreMailbox.apply_changes

    async def without(self: StoreMailbox, batch: Any, token: int) -> Any:
        return await apply_changes(self, attrs.evolve(batch, delivery_keys=()), token)

    patches.enter_context(patch.object(StoreMailbox, "apply_changes", without))


@mutant("watermark_after_read", caught=(I11, I12, LIVENESS), is_busy=True)
def watermark_after_read(patches: ExitStack) -> None:
    """The feed's place is looked up after the feed was read."""
    read_feed = StoreMailbox.read_feed

    async def late(self: StoreMailbox, after: Any, *, changes_max: int) -> Any:
        batch = await read_feed(self, after, changes_max=changes_max)
        return batch if batch.more else attrs.evolve(batch, through=await self.head())

    patches.enter_context(patch.object(StoreMailbox, "read_feed", late))


@mutant("xor_digest", test="tests/moverq/model/test_digest.py::test_equal_copies_do_not_cancel")
def xor_digest(patches: ExitStack) -> None:
    """A folder's digest is the XOR of its items', in which equal copies cancel."""

    def plus(self: FolderDigest, item: Any) -> FolderDigest:
        from moverq.model.digest import item_digest

        return FolderDigest(self.items + 1, self.bytes + item.size, self.total ^ item_digest(item))

    patches.enter_context(patch.object(FolderDigest, "plus", plus))


@mutant("watermark_without_timeline", test="tests/contract/test_endpoints_source.py")
def watermark_without_timeline(patches: ExitStack) -> None:
    """A watermark is a number alone: one from before a restore gets an answer."""
    read_feed = StoreMailbox.read_feed

    async def any_timeline(self: StoreMailbox, after: Any, *, changes_max: int) -> Any:
        return await read_feed(self, self._watermark(after.modseq), changes_max=changes_max)

    patches.enter_context(patch.object(StoreMailbox, "read_feed", any_timeline))


@mutant(
    "append_without_intent",
    test="tests/moverq/endpoints/test_imap_quirks.py::test_an_append_whose_answer_nobody_heard_is_not_made_twice",
)
def append_without_intent(patches: ExitStack) -> None:
    """What is to be appended to a server that names its own items is noted when the server has answered: of an APPEND
    whose process died before, the next one knows nothing."""

    def forgotten(mirror: Mirror, at_work: Iterable[int]) -> list[Located]:
        busy = {intents.NOBODY, *at_work}
        with mirror.changing():
            for seq, intent in list(mirror.db.execute("SELECT seq, intent FROM items WHERE server_uid IS NULL")):
                if intent and intent not in busy:
                    mirror.db.execute("DELETE FROM items WHERE seq = ?", (seq,))
        return []

    patches.enter_context(patch.object(intents, "in_doubt", forgotten))


@mutant("items_named_anew", caught=(I10, I11), faults=("kill", "kill", "endpoint answers lost"), is_busy=True, first=2)
def items_named_anew(patches: ExitStack) -> None:
    """The target names items itself, and nobody keeps which is which: what is written again is there twice."""
    write_items = StoreMailbox.write_items

    async def named_anew(self: StoreMailbox, items: Any, token: int) -> Any:
        anew = [
            item._replace(state=item.state._replace(item_id=new_id(), uid=item.state.uid + 1000 * token))
            for item in items
        ]
        return await write_items(self, anew, token)

    patches.enter_context(patch.object(StoreMailbox, "write_items", named_anew))


# ---- recovery


@mutant(
    "doubt_ended_again",
    caught=(I22,),
    faults=("asleep at the register",) * 3 + ("directory answers lost",) * 2,
    first=23,
)
def doubt_ended_again(patches: ExitStack) -> None:
    """Whoever finds a commit intent raises the epoch, also where the one before has done so already."""

    async def settle_register(ledger: Any, directory: Any, request: Any, *, token: int, facts: Any) -> Any:
        register = (await directory.recipient(request.mailbox_id)).register
        if facts.has(CommitIntent) and register.home == request.source:
            register = await directory.relocate(request.mailbox_id, expected=register, home=request.source)
            await ledger.write(request.request_id, token, forget=(CommitIntent,))
            facts = facts.minus(CommitIntent)
        return register, facts

    patches.enter_context(patch("moverq.job.settle_register", settle_register))
    patches.enter_context(patch.object(finalize, "settle_register", settle_register))


@mutant(
    "cut_before_the_mutex",
    caught=(I1, I17, I19, I20, LIVENESS, ANSWERED),
    faults=("kill",) * 4,
    is_busy=True,
    splits=True,
)
def cut_before_the_mutex(patches: ExitStack) -> None:
    """An opener cuts what stands behind the catalogue's place for a torn tail, and waits for the mutex afterwards."""
    recover = _Resources._recover

    def early(self: _Resources) -> Any:
        self.log.cut(read_applied(self.committing)[1])
        return recover(self)

    patches.enter_context(patch.object(_Resources, "_recover", early))


@mutant("recovery_forgets_its_place", caught=(I20, I22), faults=("power", "power", "catalogue", "kill in call"))
def recovery_forgets_its_place(patches: ExitStack) -> None:
    """What a dead process left in the log is applied, and it is not noted how far."""
    patches.enter_context(patch("store.recovery.write_applied", lambda db, head: None))


# ---- the store


@mutant("catalogue_ahead", caught=(I1, I19, I20, I17, LIVENESS), faults=("kill in call",) * 4 + ("power",), first=24)
def catalogue_ahead(patches: ExitStack) -> None:
    """The catalogue is committed before the frame that it follows from is written."""
    roll_back = Committer._roll_back
    late: dict[int, tuple[bytes, Any]] = {}

    def promise(self: Log, payload: bytes, *, head: Any, now_ms: int) -> Any:
        head = self.make_room(len(payload), head=head, now_ms=now_ms)
        late[id(self)] = payload, head
        return encode(FrameKind.GROUP, payload, signature=self.signature, head=head)[1]

    def write_after_commit(self: Committer) -> None:
        committed = self._db.get_autocommit()
        roll_back(self)
        payload, head = late.pop(id(self._log), (b"", None))
        if committed and head is not None:
            self._log._put(FrameKind.GROUP, payload, head)

    patches.enter_context(patch.object(Log, "append", promise))
    patches.enter_context(patch.object(Committer, "_roll_back", write_after_commit))


@mutant(
    "answer_before_commit",
    caught=(I1, I5, I15, I16, I17),
    faults=("kill", "kill", "kill in call", "kill in call"),
    first=2,
)
def answer_before_commit(patches: ExitStack) -> None:
    """Whoever waits is answered when the group has been decided, and the commit follows."""
    commit_group = Committer._commit_group

    async def early(self: Committer, lane: Lane, group: Group) -> None:
        if self._stopped is not None:
            await commit_group(self, lane, group)
            return

        def decide() -> None:
            if not group[0].staged:
                self._stage(lane.writer, group)
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for waiting, outcome in zip(group, self._decide_all(group).outcomes, strict=True):
                    waiting.settled = outcome
            finally:
                self._roll_back()

        try:
            await self._offload_log(decide)
        except (apsw.Error, trio.Cancelled):
            await commit_group(self, lane, group)
            return
        answer(group, RuntimeError("all are settled"))
        await trio.sleep(0.01)
        await commit_group(self, lane, group)

    patches.enter_context(patch.object(Committer, "_commit_group", early))


@mutant(
    "replay_without_rewriting",
    test="tests/crash/test_store_every_call.py::"
    "test_nothing_is_lost_where_the_process_dies_first_and_the_machine_later",
)
def replay_without_rewriting(patches: ExitStack) -> None:
    """What a dead process left behind the catalogue is applied, and not made durable first."""

    def settle(self: Log, head: Any, last: Any, *, now_ms: int) -> Any:
        if last is not None:
            head = last.after
            if last.kind is FrameKind.SEAL:
                following = head.position.generation + 1
                if following not in self.generations():
                    return self._begin(head, now_ms=now_ms)
                head = self.begin_of(following, chain=head.chain)
        self.cut(head)
        return head

    patches.enter_context(patch.object(Log, "settle", settle))


@mutant("envelope_key", caught=(I1, I15), first=2)
def envelope_key(patches: ExitStack) -> None:
    """A delivery is known by its key alone, and other bytes under it are taken for the same."""

    accepted = View.accepted

    def by_key(self: View, keys: Collection[Key]) -> set[Key]:
        known = set(self.db.execute("SELECT mailbox, key FROM delivery_key"))
        return accepted(self, keys) | {key for key in keys if key[:2] in known}

    patches.enter_context(patch.object(View, "accepted", by_key))


@mutant("no_folder_sync", caught=(I1, I11, I12, I16, I17, I19, I20, I22, LIVENESS), faults=("power",) * 4, first=20)
def no_folder_sync(patches: ExitStack) -> None:
    """Names of files are not synced."""
    patches.enter_context(patch("tests.sim.machine.ProcessDisk.sync_folder", lambda self, folder: None))


# ---- the order of facts and effects


@mutant(
    "unlock_on_cancel",
    caught=(I3, I7),
    first=60,
    faults=("directory away", "directory answers lost", "directory answers lost", "stop", "stop"),
)
def unlock_on_cancel(patches: ExitStack) -> None:
    """A finalize that is cut short after its intent cleans up behind itself."""
    relocate = finalize._relocate

    async def tidy(t: Any) -> Register:
        try:
            return await relocate(t)
        except BaseException:
            with trio.CancelScope(shield=True):
                await t.source.unlock(t.token)
            raise

    patches.enter_context(patch.object(finalize, "_relocate", tidy))


@mutant("ledgers_tokens", caught=(I5, I12, LIVENESS), verbs=("rollback", "retarget"), first=24)
def ledgers_tokens(patches: ExitStack) -> None:
    """Tokens are counted by the ledger, each request its own, and not by the directory."""
    begin = Job._begin

    async def counting(self: Job, held: Any) -> Any:
        standing = await self.tools.ledger.get(self.request_id)
        tools = self.tools
        self.tools = attrs.evolve(tools, directory=_Counting(tools.directory, standing.token + 1))
        try:
            return await begin(self, held)
        finally:
            self.tools = tools

    patches.enter_context(patch.object(Job, "_begin", counting))


class _Counting:
    def __init__(self, directory: Any, token: int) -> None:
        self._directory, self._token = directory, token

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._directory, verb)

    async def take_token(self, mailbox_id: Any) -> int:
        await trio.lowlevel.checkpoint()
        return self._token


@mutant(
    "purge_without_checks",
    test="tests/moverq/test_job.py::test_nothing_is_deleted_where_the_register_says_it_is_the_home",
)
def purge_without_checks(patches: ExitStack) -> None:
    """The old mailbox is deleted when its time is over, and nobody looks at the register or the target."""

    async def unseen(t: Any) -> None:
        await trio.lowlevel.checkpoint()

    patches.enter_context(patch.object(clean_up, "_check_purge", unseen))
    patches.enter_context(patch.object(clean_up, "_check_register", unseen))


# ---- who waits


@mutant("wakes_within_the_process", caught=(ANSWERED,), faults=("clock",), is_busy=True)
def wakes_within_the_process(patches: ExitStack) -> None:
    """Who waits for a change is woken by commits of his own process alone."""
    patches.enter_context(patch.object(Watch, "_version", lambda self: 0))


@mutant(
    "waits_for_the_next_turn",
    test="tests/moverq/test_session.py::test_a_verb_that_met_a_lock_is_answered_whenever_the_guard_turns",
)
def waits_for_the_next_turn(patches: ExitStack) -> None:
    """Who met a lock reads the register before the guard, and waits for whatever comes next."""

    async def head_while_closed(self: Session, place: Place) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    async def wait_turn(self: Session, place: Place, head: int) -> None:
        with translated(place.home.database):
            info = await place.database.info(place.mailbox.instance)
            if info.mode is not Mode.OPEN:
                await place.database.wait_change(place.mailbox.instance, after=info.head)

    patches.enter_context(patch.object(Session, "_head_while_closed", head_while_closed))
    patches.enter_context(patch.object(Session, "_wait_turn", wait_turn))


def _open_to_clients(patches: ExitStack, also: Callable[[Any], bool]) -> None:
    """Clients may write where the guard is open, and where `also` says so."""
    require = guard.require_client

    def lenient(info: Any) -> None:
        if info.keep_until_ms is not None or not also(info):
            require(info)

    for place in ("store.mailbox.require_client", "store.deciding.require_client", "store.retention.require_client"):
        patches.enter_context(patch(place, lenient))


def pytest_configure() -> None:
    """As a plugin: the whole run is done with one mutant."""
    (chosen,) = [each for each in MUTANTS if each.name == os.environ["MOVERQ_MUTANT"]]
    chosen.build(ExitStack())  # until the process ends


__all__ = ["MUTANTS", "Mutant", "built"]
