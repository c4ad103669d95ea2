"""A process: its turns, its way to disk, directory and databases, and its death at any moment.

Between any two turns of a process the others run, it may be paused for longer than everybody's patience, and it may
die: at an `await`, or in the middle of a disk call. The dead do nothing more: their scope is cancelled, and their
disk, directory and offload refuse. What closes files still runs, as the kernel does it for the dead.
"""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

import store
from moverq.endpoints.base import Endpoint
from moverq.endpoints.store import StoreEndpoint, translated
from moverq.errors import (
    EndpointBusy,
    EndpointUnavailable,
    FeedTrimmed,
    MoveError,
    NotFound,
    RegisterChanged,
    leaves,
)
from moverq.ledger.item_map import ItemMap
from moverq.ledger.ledger import Changes, Ledger
from moverq.model.ids import InstanceId, RequestId
from tests.sim.machine import BLOCKED, Killed, ProcessDisk, disk_error, disk_full
from tests.sim.observer import Observer
from tests.sim.scenario import DATABASES
from tests.sim.split import pause, run_split
from tests.sim.world import LIMITS, World
from tests.support.store_move_world import EFFECTS

T = TypeVar("T")

TURN_S = 0.004
"""What a blocking call takes, on average, where it takes any time."""
SPLIT_CHANCE = 0.3
"""At each disk call of a run that splits them."""
SLOW_TURN_S = 0.5
"""The same on a slow disk."""


@attrs.define(eq=False)
class Process:
    """One life of a process. `run` it; it ends with what it does, by `stop` politely, or by `die`."""

    name: str
    world: World
    observer: Observer
    rng: random.Random
    is_dead: bool = False
    paused_until: float = 0.0
    dies_in_calls: int = 0
    ledger: "SimLedger | None" = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _nursery: trio.Nursery | None = None
    _open: dict[str, StoreEndpoint] = attrs.Factory(dict)
    _opening: dict[str, trio.Event] = attrs.Factory(dict)

    def __repr__(self) -> str:
        return f"<Process {self.name}{' dead' if self.is_dead else ''}>"

    async def run(self, body: Callable[["Process"], Awaitable[None]]) -> None:
        """`body`, until its end or this process's; nothing of it is left afterwards."""
        try:
            with self.scope:
                # In the nursery: the body, and a task for each database it has open; the body's end ends them.
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    await body(self)
                    nursery.cancel_scope.cancel()
        except BaseException as error:
            self._judge(error)
        finally:
            self.is_dead = True
            if self.ledger is not None:
                self.ledger.close_files()

    def _judge(self, error: BaseException) -> None:
        """Which end of a process is one that a process may come to?"""
        found = [leaf for leaf in leaves(error) if not isinstance(leaf, Killed)]
        cancelled = [leaf for leaf in found if isinstance(leaf, trio.Cancelled)]
        if len(cancelled) == len(found):
            if cancelled and not self.is_dead:
                raise error
            return
        if any(isinstance(leaf, MoveError) for leaf in found):
            # An error that ends a whole process: the supervisor starts it again. A worker has none, whatever it meets.
            self.world.say(self.name, "ended by", *(type(leaf).__name__ for leaf in found))
            if self.world.is_calm or self.name.startswith("worker"):
                self.world.violate("a process lives", f"{self.name} was ended by {found[0]!r}")
            return
        raise error

    # ---- faults

    def die(self) -> None:
        """As by SIGKILL."""
        if not self.is_dead:
            self.world.say(self.name, "dies")
            self.is_dead = True
            self.scope.cancel()

    async def turn(self, where: str = "") -> None:
        """Some time passes; others run."""
        if self.rng.random() < 0.65:
            await trio.lowlevel.checkpoint()  # others that are ready run, and no time passes
        elif where and self.world.hit("slow disk", where):
            await trio.sleep(self.rng.expovariate(1 / SLOW_TURN_S))
        else:
            await trio.sleep(self.rng.expovariate(1 / TURN_S))
        while self.paused_until > trio.current_time():  # noqa: ASYNC110 (paused again meanwhile)
            await trio.sleep_until(self.paused_until)
        if self.is_dead:
            raise Killed

    def on_disk_call(self, kind: str, path: Path) -> None:
        """Before or after a disk call of this process, or where it finds a lock taken that it waits for."""
        if self.is_dead:
            raise Killed
        if kind == BLOCKED or (self.world.scenario.splits and self.rng.random() < SPLIT_CHANCE):
            paused = pause()
            assert paused or kind != BLOCKED, f"{self} waits for {path} where nobody else can run"
            if paused:
                self.world.reach(
                    "waited for another's lock" if kind == BLOCKED else "others ran within a blocking call"
                )
            if self.is_dead:
                raise Killed
        if self.dies_in_calls:
            self.dies_in_calls -= 1
            if not self.dies_in_calls:
                if path.parent.name == "log" and kind in ("written", "sync", "synced"):
                    self.world.reach("died between append and its answer")
                self.world.reach(f"died at a disk call: {kind}")
                self.die()
                raise Killed
        if not self.world.windows or kind not in ("read", "write", "sync", "replace"):
            return
        where = self.world.machine.database_of(path)
        if kind == "write" and self.world.hit("disk full", where):
            self.world.reach(f"disk full in {path.parent.name}")
            if self.observer.is_target(where):
                self.world.reach("disk full at the target of a move")
            raise disk_full(path)
        if self.world.hit("disk error", where):
            self.world.reach(f"disk error: {kind}")
            raise disk_error(path)

    # ---- what it uses

    def offload(self, where: str = "", after: Callable[[], None] | None = None) -> "SimOffload":
        return SimOffload(self, where, after)

    async def open_ledger(self) -> "SimLedger":
        after = self.observer.look_at_ledger
        ledger = await SimLedger.open(
            self.world.root, make_offload=lambda: self.offload(after=after), now_ms=self.world.now_ms, watch=False
        )
        assert isinstance(ledger, SimLedger)
        ledger.process, self.ledger = self, ledger
        ledger.limits = LIMITS
        self.observer.ledgers.append(ledger)
        return ledger

    @property
    def directory(self) -> Any:
        return SimDirectory(self)

    async def endpoint(self, name: str) -> Endpoint:
        return SimEndpoint(self, await self.store(name))

    async def database(self, name: str) -> store.Database:
        return (await self.store(name)).database

    async def store(self, name: str) -> StoreEndpoint:
        """The open database of this name, opened by the first who asks, in a task of its own."""
        if name not in DATABASES:
            raise NotFound(kind="database", name=name)
        while name not in self._open:
            if name in self._opening:
                await self._opening[name].wait()
                continue
            self._opening[name] = opened = trio.Event()
            try:
                assert self._nursery is not None
                self._open[name] = await self._nursery.start(self._hold, name)
            finally:
                del self._opening[name]
                opened.set()
        return self._open[name]

    async def _hold(self, name: str, *, task_status: trio.TaskStatus[StoreEndpoint]) -> None:
        disk = ProcessDisk(self.world.machine, self.on_disk_call)

        def offload() -> SimOffload:
            return self.offload(name, lambda: self.observer.look_at(name))

        with translated(name):
            try:
                async with store.open_database(
                    self.world.machine.path(name), offload=offload, disk=disk, clock=self.world.now_ms
                ) as database:
                    task_status.started(StoreEndpoint(name, database))
                    await database.wait_broken()
                    self.world.reach("a database was opened again after a commit that failed half-way")
                    del self._open[name]
            except store.Corruption as damage:
                self.world.violate("I20 a log without damage", f"{name} cannot be opened after a fault: {damage}")
                raise


class SimOffload:
    """Blocking work on the loop: before it some time passes; after it, now and then, the answer is slow to come.

    As with a thread, what has begun is not abandoned, and what waited for its turn did not happen.
    """

    def __init__(self, process: Process, where: str, after: Callable[[], None] | None) -> None:
        self._process = process
        self._where = where
        self._after = after
        self._one_at_a_time = trio.Lock()

    async def __call__(self, fn: Callable[[], T]) -> T:
        try:
            self._one_at_a_time.acquire_nowait()
        except trio.WouldBlock:
            await self._one_at_a_time.acquire()
        try:
            await self._process.turn(self._where)
            try:
                if self._process.world.scenario.splits:
                    answer = await run_split(fn, partial(self._process.turn, self._where))
                else:
                    answer = fn()
            finally:
                if self._after is not None:
                    self._after()
            if self._process.rng.random() < 0.02:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self._process.rng.expovariate(1 / 0.05))
            return answer
        finally:
            self._one_at_a_time.release()


class SimLedger(Ledger):
    """The ledger, in a world where others' writes ring too, and where it may be busy."""

    process: Process | None = None
    _maps: list[ItemMap]

    def item_map(self, request_id: RequestId) -> ItemMap:
        made = super().item_map(request_id)
        self.__dict__.setdefault("_maps", []).append(made)
        return made

    async def changes(self, since: int = 0) -> Changes:
        if self.process is not None and self.process.world.hit_anywhere("ledger busy"):
            self.process.world.reach("the intake found the ledger busy")
            raise EndpointBusy(endpoint="ledger", retry_after_s=1.0)
        return await super().changes(since)

    async def _effect(self, verb: str, effect: Callable[[], Awaitable[T]]) -> T:
        process = self.process
        if process is None:
            return await effect()
        if process.world.hit_anywhere("ledger busy"):
            raise EndpointBusy(endpoint="ledger", retry_after_s=1.0)
        answer = await effect()
        process.observer.ring_ledgers(self)
        return answer

    def ring(self) -> None:
        """Another process has committed."""
        self._written.ring()
        self._asked.ring()

    def close_files(self) -> None:
        """What the kernel does for a process that is gone."""
        self._db.close()
        for each in self.__dict__.get("_maps", ()):
            if each._connection is not None:
                each._connection.close()
        if self.process is not None and self in self.process.observer.ledgers:
            self.process.observer.ledgers.remove(self)


class SimDirectory:
    """The directory from one process: it may be away, and its answers may be lost on the way."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def __getattr__(self, verb: str) -> Any:
        process, world = self._process, self._process.world
        found = getattr(world.directory, verb)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await process.turn()
            if world.hit_anywhere("directory away"):
                if verb == "databases" and process.name.startswith("worker"):
                    world.reach("the intake found the directory away")
                raise EndpointUnavailable(endpoint="directory", why="the simulation's directory is away")
            if verb == "relocate" and world.hit("asleep at the register", process.name):
                process.paused_until = trio.current_time() + process.rng.expovariate(1 / 5.0)
                await process.turn()
                world.reach("fell asleep before the compare-and-set")
            won, answer = "won", None
            is_lost = world.hit("directory answers lost", verb) or world.hit("directory answers lost", "any")
            try:
                answer = await found(*args, **kwargs)
            except RegisterChanged:
                won = "lost"
                if not is_lost:
                    raise
            finally:
                process.observer.look_at_directory(process.name, verb)
            if is_lost:
                if verb == "relocate":
                    world.reach(f"compare-and-set answer lost, {won}")
                raise EndpointUnavailable(endpoint="directory", why="the simulation lost its answer")
            if process.rng.random() < 0.05:
                with trio.CancelScope(shield=True):
                    await trio.sleep(process.rng.expovariate(1 / 0.05))
            return answer

        return call


@attrs.frozen(eq=False)
class SimEndpoint:
    """An endpoint that may refuse, lose an answer, or be asked the same thing twice."""

    process: Process
    inner: StoreEndpoint

    @property
    def name(self) -> str:
        return self.inner.name

    def source(self, instance: InstanceId) -> Any:
        return SimSide(self.process, self.name, instance, self.inner.source(instance))

    def target(self, instance: InstanceId) -> Any:
        return SimSide(self.process, self.name, instance, self.inner.target(instance))

    async def instances(self) -> Any:
        return await self.inner.instances()


class SimSide:
    """One instance, as source or target, from one process."""

    def __init__(self, process: Process, name: str, instance: InstanceId, side: Any) -> None:
        self._process, self._name, self._instance, self._side = process, name, instance, side

    def __getattr__(self, verb: str) -> Any:
        found = getattr(self._side, verb)
        if verb == "read_feed":
            return partial(self._read_feed, found)
        if verb not in EFFECTS:
            return found
        process, world, name = self._process, self._process.world, self._name

        async def call(*args: Any, **kwargs: Any) -> Any:
            if world.hit("endpoint refuses", name):
                raise EndpointUnavailable(endpoint=name, why="the simulation's endpoint refuses")
            begun = process.observer.begin_verb(name, self._instance)
            answer = await found(*args, **kwargs)
            if world.hit("endpoint twice", name):
                world.reach("an endpoint did the same thing twice")
                answer = await found(*args, **kwargs)
            process.observer.end_verb(begun, verb, token=args[0] if isinstance(args[0], int) else args[1])
            if world.hit("endpoint answers lost", name):
                world.reach("an endpoint's answer was lost")
                raise EndpointUnavailable(endpoint=name, why="the simulation lost its answer")
            return answer

        return call

    async def _read_feed(self, found: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        try:
            return await found(*args, **kwargs)
        except FeedTrimmed:
            self._process.world.reach("feed trimmed")
            raise
