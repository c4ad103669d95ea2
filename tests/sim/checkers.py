"""The rules that hold after every single effect, by the numbers of `why-no-message-is-lost`.

Each is a small class that hears of effects from the observer and answers, where it does not hold, with the smallest
witness in words. Rules about what clients were told are in `judge`; what cannot be seen in a simulation (26: secrets in
logs; 27: logs of older releases) has tests elsewhere.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import trio

from moverq.directory.directory import Register
from moverq.endpoints.base import Home
from moverq.model.facts import CleanedUp, CommitIntent, Fact, FeedWatermark, SoakUntil
from moverq.model.ids import MailboxId
from moverq.plan.hierarchy import is_parked
from store.records import Mode
from tests.sim.history import Op
from tests.sim.observer import Instance, Observer, Request
from tests.sim.recovery import RULE as RECOVERY
from tests.sim.scenario import DATABASES
from tests.sim.world import World
from tests.support.store_world import check_sums


class Rule:
    """A checker that hears of everything and does nothing. Subclasses say what they are about."""

    rule = ""

    def __init__(self, world: World, observer: Observer) -> None:
        self.world, self.observer = world, observer

    def violate(self, witness: str) -> None:
        self.world.violate(self.rule, witness)

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None: ...
    def register_changed(self, mailbox_id: MailboxId, before: Register, after: Register) -> None: ...
    def fact_changed(self, request: Request, kind: str, token: int, fact: Fact | None) -> None: ...
    def request_gone(self, request: Request) -> None: ...
    def database_changed(self, database: str) -> None: ...
    def verb_ended(self, home: Home, verb: str, token: int, begun: int, ended: int) -> None: ...
    def client_gave_up(self, address: str, op: Op) -> None: ...
    def over(self) -> None: ...

    def register_of(self, mailbox_id: bytes) -> Register:
        return self.observer.registers[MailboxId(mailbox_id)]

    def requests_from(self, home: Home) -> list[Request]:
        return [request for request in self.observer.requests.values() if request.request.source == home]

    def requests_to(self, home: Home) -> list[Request]:
        return [request for request in self.observer.requests.values() if target_of(request) == home]


def target_of(request: Request) -> Home:
    return Home(request.request.target_database, request.request.target_instance)


class OneOpen(Rule):
    rule = "I2 never two open mailboxes"

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if after is None or after.mode is not Mode.OPEN:
            return
        others = [
            other
            for other, found in self.observer.instances.items()
            if found.mailbox_id == after.mailbox_id and found.mode is Mode.OPEN and other != home
        ]
        if others:
            self.violate(f"{home} was opened while {others[0]} is open too")


class OpenAtHome(Rule):
    rule = "I3 open is where the register says"

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if after is not None and after.mode is Mode.OPEN:
            self._look(home, after)

    def register_changed(self, mailbox_id: MailboxId, before: Register, after: Register) -> None:
        for home, found in self.observer.instances.items():
            if found.mailbox_id == mailbox_id and found.mode is Mode.OPEN:
                self._look(home, found)

    def _look(self, home: Home, found: Instance) -> None:
        register = self.observer.registers.get(MailboxId(found.mailbox_id))
        if register is not None and register.home != home:
            self.violate(f"{home} is open, and the register says {register}")


class EpochRises(Rule):
    rule = "I4 an epoch has one winner"

    def register_changed(self, mailbox_id: MailboxId, before: Register, after: Register) -> None:
        if after.epoch != before.epoch + 1:
            self.violate(f"the register went from {before} to {after}")


class TokensRise(Rule):
    rule = "I5 no effect of a token after a higher one"

    def __init__(self, world: World, observer: Observer) -> None:
        super().__init__(world, observer)
        self._accepted: dict[Home, tuple[int, int, str]] = {}

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if before is not None and after is not None and after.token < before.token:
            self.violate(f"the guard of {home} held token {before.token}, and then {after.token}")

    def verb_ended(self, home: Home, verb: str, token: int, begun: int, ended: int) -> None:
        highest, since, what = self._accepted.get(home, (0, 0, ""))
        if token < highest and since < begun:
            self.violate(
                f"{verb} with token {token} was begun and accepted at {home} after {what} with token {highest}"
            )
        if token > highest:
            self._accepted[home] = token, ended, verb

    def fact_changed(self, request: Request, kind: str, token: int, fact: Fact | None) -> None:
        newer = [
            f"{other} with token {held}" for other, (held, _) in request.facts.items() if held > token and other != kind
        ]
        if fact is not None and newer and token < request.token:
            self.violate(f"fact {kind} was written with token {token} after {newer[0]}")


class RetiredIsRetired(Rule):
    rule = "I6 after the commit only the reverse feed changes the source"

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if before is None or after is None or before.mode is not Mode.RETIRED or after.mode is Mode.RETIRED:
            return
        # Only a move back seals it, and only such a move's commit opens it.
        if after.mode is not Mode.SEALED or not any(request.request.parent for request in self.requests_to(home)):
            self.violate(f"the retired {home} became {after.mode.name} without a move back to it")


class NoUnlockInDoubt(Rule):
    rule = "I7 no unlock while the commit is in doubt"

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if before is None or after is None or before.mode is not Mode.LOCKED or after.mode is not Mode.OPEN:
            return
        register = self.register_of(after.mailbox_id)
        for request in self.requests_from(home):
            intent = request.facts.get(CommitIntent.kind)
            if intent is not None and isinstance(intent[1], CommitIntent) and intent[1].epoch >= register.epoch:
                self.violate(
                    f"{home} was unlocked while the intent to commit at epoch {intent[1].epoch} is open and the "
                    f"register says {register}: the commit can still win"
                )


class WritersBehindTheGuard(Rule):
    rule = "I8 no mover writes to an open target, no client to a closed one"

    def __init__(self, world: World, observer: Observer) -> None:
        super().__init__(world, observer)
        self._opened: dict[Home, int] = {}

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if after is not None and after.mode is Mode.OPEN:
            self._opened.setdefault(home, self.observer.moment)
        else:
            self._opened.pop(home, None)

    def verb_ended(self, home: Home, verb: str, token: int, begun: int, ended: int) -> None:
        since = self._opened.get(home)
        if verb in ("write_items", "apply_changes", "apply_folders") and since is not None and since < begun:
            self.violate(f"{verb} with token {token} was accepted by {home}, which is open to clients")


class OneForOne(Rule):
    rule = "I10 a source item is at the target once"

    def __init__(self, world: World, observer: Observer) -> None:
        super().__init__(world, observer)
        self._ever: dict[tuple[str, bytes], dict[bytes, tuple[bytes, int]]] = {}
        """All items that an instance has ever had, as what message each."""
        for database in DATABASES:
            self.database_changed(database)

    def database_changed(self, database: str) -> None:
        for instance, item_id, message in self.observer.messages(database):
            self._ever.setdefault((database, instance), {})[item_id] = message

    def verb_ended(self, home: Home, verb: str, token: int, begun: int, ended: int) -> None:
        """Of each message the target has no more items than the source has ever had."""
        if verb not in ("write_items", "apply_changes"):
            return
        for request in self.requests_to(home):
            source = request.request.source
            if "committed" not in request.facts:
                had = Counter(self._ever.get((source.database, source.instance), {}).values())
                has = Counter(
                    message for at, _, message in self.observer.messages(home.database) if at == home.instance
                )
                for message, times in has.items():
                    if times > had[message]:
                        self.violate(
                            f"after {verb} with token {token} {home} has {times} items of message "
                            f"{message[0].hex()[-12:]}, of which {source} has ever had {had[message]}"
                        )
                        return


class DoubtEndsOnce(Rule):
    rule = RECOVERY

    def register_changed(self, mailbox_id: MailboxId, before: Register, after: Register) -> None:
        """The epoch is raised in place to end a doubt. Whoever recovers again finds it raised, and leaves it."""
        if before.home != after.home:
            return
        doubts = [request.facts.get(CommitIntent.kind) for request in self.requests_from(before.home)]
        epochs = [doubt[1].epoch for doubt in doubts if doubt is not None and isinstance(doubt[1], CommitIntent)]
        if before.epoch not in epochs:
            self.violate(f"{before} was raised to {after}, and the intents in doubt are at epochs {epochs}")


class BelowTheWatermark(Rule):
    rule = "I11 what is below the watermark is at the target"

    def fact_changed(self, request: Request, kind: str, token: int, fact: Fact | None) -> None:
        if not isinstance(fact, FeedWatermark) or fact.watermark.instance != request.request.source.instance:
            return
        cursor = request.facts.get("seed_cursor")
        if cursor is None or not cursor[1].done or not cursor[1].swept:  # type: ignore[union-attr]
            return
        target = target_of(request)
        if self.observer.instance_at(target) is None or self.observer.instance_at(request.request.source) is None:
            return
        there, dead = self.observer.rows(target), self.observer.tombstones(target)
        for item_id, row in self.observer.rows(request.request.source).items():
            if row[2] > fact.watermark.modseq or item_id in dead:
                continue
            if item_id not in there or there[item_id][2] < row[2]:
                found = f"at change {there[item_id][2]}" if item_id in there else "not there"
                self.violate(
                    f"the target is said to hold all up to change {fact.watermark.modseq}; item "
                    f"{item_id.hex()[-12:]} is at change {row[2]} at the source, and {found} at the target"
                )
                return


class EqualAtTheCommit(Rule):
    rule = "I12/I18 both sides are equal when the commit is decided"

    def fact_changed(self, request: Request, kind: str, token: int, fact: Fact | None) -> None:
        if isinstance(fact, CommitIntent):
            self.compare(request.request.source, target_of(request))

    def compare(self, source: Home, target: Home) -> None:
        at_source = self.observer.instance_at(source)
        if at_source is None or at_source.mode is not Mode.LOCKED or self.observer.instance_at(target) is None:
            self.violate(f"a commit is decided while {source} is {at_source}")
            return
        one, other = self.observer.seen(source), self.observer.seen(target)
        for what, mine, theirs in (
            ("item", self.observer.rows(source), self.observer.rows(target)),
            ("folder", one.folders, other.folders),
            ("setting", one.settings, other.settings),
        ):
            found = first_difference(mine, theirs)
            if found is not None:
                self.violate(f"{what} {found}")
                return
        missing = self.observer.delivery_keys(source) - self.observer.delivery_keys(target)
        if missing:
            self.violate(f"delivery key {min(missing)[0]!r} was accepted at the source and is not known at the target")
        for database in {source.database, target.database}:
            try:
                check_sums(self.observer._catalogues[database])
            except AssertionError as error:
                self.violate(f"the maintained sums of {database} are not those of its items: {error}")


def first_difference(mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> str | None:
    for key in sorted({*mine, *theirs}):
        if mine.get(key) != theirs.get(key):
            name = key.hex()[-12:] if isinstance(key, bytes) else key
            return f"{name} is {mine.get(key, 'not')} at the source, {theirs.get(key, 'not')} at the target"
    return None


class OthersAreUntouched(Rule):
    rule = "I13 nothing outside the move's mailbox is touched"

    def __init__(self, world: World, observer: Observer) -> None:
        super().__init__(world, observer)
        self._bystanders = {
            home: observer.rows(home)
            for home, found in observer.instances.items()
            if MailboxId(found.mailbox_id) not in world.directory._recipients
        }
        assert self._bystanders, "the template has one"

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if home in self._bystanders:
            self.violate(f"{home} belongs to nobody's move, and its guard went from {before} to {after}")

    def over(self) -> None:
        for home, before in self._bystanders.items():
            found = first_difference(before, self.observer.rows(home))
            if found is not None:
                self.violate(f"in a mailbox of nobody's move item {found.replace('target', 'end')}")


class FoldersAreATree(Rule):
    rule = "I14 folders are a tree after every step"

    def verb_ended(self, home: Home, verb: str, token: int, begun: int, ended: int) -> None:
        if verb == "apply_folders" and self.observer.instance_at(home) is not None:
            self._look(home)

    def fact_changed(self, request: Request, kind: str, token: int, fact: Fact | None) -> None:
        if isinstance(fact, CommitIntent):
            names = [folder.name for folder in self.observer.seen(target_of(request)).folders.values()]
            if any(is_parked(name) for name in names):
                self.violate(f"a parked folder is left at the commit: {names}")

    def over(self) -> None:
        for home in self.observer.instances:
            self._look(home)

    def _look(self, home: Home) -> None:
        folders = self.observer.seen(home).folders
        for folder_id in folders:
            at, steps = folder_id, 0
            while at and steps <= len(folders):
                if at not in folders:
                    self.violate(f"folder {folders[folder_id].name!r} of {home} lies in one that is not there")
                    return
                at, steps = folders[at].parent_id, steps + 1
            if at:
                self.violate(f"folder {folders[folder_id].name!r} of {home} lies inside itself")
                return


class IntentFirst(Rule):
    rule = "I21 no effect without an earlier durable intent"

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if after is None:
            return
        if before is None:
            if not self.requests_to(home):
                self.violate(f"{home} was made, and no request names it")
        elif before.mode is Mode.OPEN and after.mode is Mode.LOCKED:
            intents = [r for r in self.requests_from(home) if {"lock_intent", "offline_locked"} & r.facts.keys()]
            if not intents:
                self.violate(f"{home} was locked, and no ledger says that it was to be")

    def register_changed(self, mailbox_id: MailboxId, before: Register, after: Register) -> None:
        if before.home == after.home:
            return
        intents = [request.facts.get("commit_intent") for request in self.requests_to(after.home)]
        if not any(i is not None and getattr(i[1], "epoch", None) == before.epoch for i in intents):
            self.violate(f"the register went from {before} to {after} without an intent to commit at that epoch")


class NothingDestroyedEarly(Rule):
    rule = "I23 nothing is destroyed early"

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if before is None or (after is not None and after.keep_until_ms == before.keep_until_ms):
            return
        what = "purged" if after is None else "soft-deleted"
        register = self.register_of(before.mailbox_id)
        if register.home == home:
            self.violate(f"{home} was {what}, and the register says {register}")
            return
        sources = [r for r in self.requests_from(home) if "committed" in r.facts]
        if sources and not any("purge_allowed" in r.facts for r in sources):
            self.violate(f"the old home {home} was {what} without leave: no purge has been allowed")
        if after is None and before.keep_until_ms is not None and before.keep_until_ms > self.world.now_ms():
            self.violate(f"{home} was purged {before.keep_until_ms - self.world.now_ms()} ms before its time")

    def fact_changed(self, request: Request, kind: str, token: int, fact: Fact | None) -> None:
        if kind != "purge_allowed" or fact is None:
            return
        register = self.register_of(request.request.mailbox_id)
        if register.home == request.request.source:
            self.violate(f"the purge of {request.request.source} was allowed, and the register says {register}")
        soak = request.facts.get(SoakUntil.kind)
        if CleanedUp.kind not in request.facts or soak is None:
            self.violate(f"the purge of {request.request.source} was allowed before the move was over")
        elif not request.wishes_finish and getattr(soak[1], "until_ms", 0) > getattr(fact, "at_ms", 0):
            self.violate(f"the purge of {request.request.source} was allowed before its soak was over")


class AbortLeavesTheSource(Rule):
    rule = "I24 an abort leaves the source as it was, and the target gone"

    def request_gone(self, request: Request) -> None:
        target = self.observer.instance_at(target_of(request))
        register = self.register_of(request.request.mailbox_id)
        if "committed" in request.facts or register.home != request.request.source:
            return
        source = self.observer.instance_at(request.request.source)
        if source is None or source.mode is not Mode.OPEN:
            self.violate(f"{request.request.source} was left {source}")
        elif request.request.parent is None and target is not None:
            self.violate(f"the target {target_of(request)} was left, {target.mode.name}")


class LockWithinBudget(Rule):
    rule = "I25 the lock is held no longer than its budget"

    def __init__(self, world: World, observer: Observer) -> None:
        super().__init__(world, observer)
        self._since: dict[Home, int] = {}

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if after is not None and after.mode is Mode.LOCKED:
            self._since.setdefault(home, self.world.now_ms())
            return
        since = self._since.pop(home, None)
        # What a fault made long is not the engine's promise; nor is the time beyond the commit intent.
        if since is not None and not self.world.scenario.faults and after is not None and after.mode is Mode.OPEN:
            held, budget = self.world.now_ms() - since, self.world.scenario.lock_budget_ms
            offline = any("offline_locked" in request.facts for request in self.requests_from(home))
            if held > budget * 1.5 + 500 and not offline:
                self.violate(f"{home} was locked for {held} ms and given back; its budget is {budget} ms")


class OpenIsAnswered(Rule):
    rule = "liveness: beside an open mailbox nobody waits"

    def __init__(self, world: World, observer: Observer) -> None:
        super().__init__(world, observer)
        self._since = {home: 0.0 for home, found in observer.instances.items() if found.mode is Mode.OPEN}

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None:
        if after is not None and after.mode is Mode.OPEN:
            self._since.setdefault(home, trio.current_time())
        else:
            self._since.pop(home, None)

    def client_gave_up(self, address: str, op: Op) -> None:
        if any(fault.kind not in HOLDS_UP_NOBODY for fault in self.world.scenario.faults):
            return  # a process that is asleep, a directory that is away: any of them may be what it waits for
        (register,) = [r.register for r in self.world.directory._recipients.values() if r.address == address]
        since = self._since.get(register.home)
        if since is not None and trio.current_time() - since > ANSWERED_S:
            self.violate(f"{op}: {register} has been open for {trio.current_time() - since:.1f} s")


HOLDS_UP_NOBODY = frozenset({"clock", "catalogue", "map loses a row"})
ANSWERED_S = 10.0
"""Within this a client of an open mailbox has its answer, whatever the rest of the world is doing."""


class Met(Rule):
    """No rule: what was met, of the list that a run set must have met."""

    def __init__(self, world: World, observer: Observer) -> None:
        super().__init__(world, observer)
        self._first: dict[bytes, set[bytes]] = {}

    def register_changed(self, mailbox_id: MailboxId, before: Register, after: Register) -> None:
        if before.home == after.home:
            return
        known = self._first.setdefault(mailbox_id, set(self.observer.rows(after.home)))
        back = any(request.request.parent for request in self.requests_to(after.home))
        if back and self.observer.rows(after.home).keys() - known:
            self.world.reach("rollback carries mail")


RULES: tuple[type[Rule], ...] = (
    OneOpen,
    OpenAtHome,
    EpochRises,
    TokensRise,
    RetiredIsRetired,
    NoUnlockInDoubt,
    WritersBehindTheGuard,
    OneForOne,
    DoubtEndsOnce,
    BelowTheWatermark,
    EqualAtTheCommit,
    OthersAreUntouched,
    FoldersAreATree,
    IntentFirst,
    NothingDestroyedEarly,
    AbortLeavesTheSource,
    LockWithinBudget,
    OpenIsAnswered,
)
