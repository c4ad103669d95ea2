"""A server whose fence is weak: writers that were let in before the lock may end after it. From a seed, like the rest.

The old home is a memory endpoint of fence class B, C or D, and its clients' writes take time: one that found the
mailbox open lands when it is through, whatever the guard says by then, also on the retired instance. The worker is the
real one, on a real ledger file, killed at random steps and started again. What cannot be promised here is that every
acknowledged write is at the new home. What is, and is asked in the end:

    before the fence    what landed while the mailbox was open is at the home
    named or there      what landed later is at the home too, or the report names it
    named once          nobody is named twice, and nobody who did not come late
"""

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import attrs
import trio

from moverq import moves
from moverq.endpoints.base import FenceClass, GuardMode
from moverq.endpoints.memory import MemoryDatabase
from moverq.endpoints.memory_instance import MemoryInstance
from moverq.errors import leaves
from moverq.ledger.ledger import Ledger
from moverq.model.ids import InstanceId, RequestId
from moverq.model.report import EntryKind
from moverq.model.request import Status, SyncStage
from tests.sim.seeded import simulate
from tests.sim.world import EPOCH_MS, LIMITS, Violation
from tests.support.move_world import ADDRESS, World, fill

BEFORE = "fence: what landed before the lock is at the home"
NAMED = "fence: who came late is at the home, or named"
ONCE = "fence: who is named came late, and is named once"
ENDS = "liveness: all ends once faults stop"
SOAK_S = 30.0
SLOWEST_S = 8.0
"""A write takes up to this long, which is less than the soak: after that nobody looks any more."""
LIVENESS_S = 600.0


class Died(BaseException):
    """The worker is gone."""


class Ticking(World):
    """A world whose wall clock is the virtual one."""

    def tick(self) -> int:
        return EPOCH_MS + int(trio.current_time() * 1000)


@attrs.define(eq=False)
class WeakFence:
    """One run. `violations` in the end; `sometimes`: what it met."""

    seed: int
    world: World
    rng: random.Random
    home: InstanceId
    begun: dict[bytes, bool] = attrs.Factory(dict)
    """Items that landed, and whether past the lock."""
    violations: list[Violation] = attrs.Factory(list)
    sometimes: Counter[str] = attrs.Factory(Counter)
    is_calm: bool = False

    async def play(self) -> None:
        engine = self.world.engine(limits=LIMITS)
        ledger = await engine.ledger()
        # In the nursery: the worker, started again whenever it dies, until the end; and its clients.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive)
            for number in range(self.rng.randrange(5, 25)):
                nursery.start_soon(self._write, number, self.rng.random() * 12, self.rng.random() ** 3 * SLOWEST_S)
            await trio.sleep(self.rng.random())
            asked = await moves.new_move(
                ledger, engine.directory, ADDRESS, "DB2", soak_s=SOAK_S, offline=self.rng.random() < 0.15
            )
            await trio.sleep(15)
            self.is_calm = True
            with trio.move_on_after(LIVENESS_S):
                await self._see_it_end(ledger, asked.request.request_id)
            nursery.cancel_scope.cancel()
        await self._judge(ledger, asked.request.request_id)
        await engine.close()

    # ---- who works

    async def _write(self, number: int, at: float, takes: float) -> None:
        """A delivery by way of the directory: it is let in where the mailbox is open, and lands when it is through."""
        await trio.sleep(at)
        register = (await self.world.recipient()).register
        instance = self.world.databases[register.home.database].instances[register.home.instance]
        if instance.guard.mode is not GuardMode.OPEN:
            return
        if instance.instance != self.home:
            await trio.lowlevel.checkpoint()
            self.begun[instance.deliver(b"Subject: new home %d\r\n\r\n" % number) or b""] = False
            return
        await trio.sleep(takes)
        if instance.removed_until_ms is None:
            self._land(instance, b"Subject: %d\r\n\r\n" % number)

    def _land(self, instance: MemoryInstance, content: bytes) -> None:
        guard = instance.guard
        is_late = guard.mode is not GuardMode.OPEN
        instance.guard = attrs.evolve(guard, mode=GuardMode.OPEN)  # nobody keeps out who is in already
        item_id = instance.deliver(content)
        instance.guard = guard
        assert item_id is not None
        self.begun[item_id] = is_late
        if is_late:
            self.sometimes[f"a straggler landed on a mailbox that was {guard.mode.value}"] += 1

    async def _keep_alive(self) -> None:
        while True:
            engine = self.world.engine(limits=LIMITS, step=self._step, seed=self.rng.randrange(1 << 30))
            try:
                await (await engine.service()).run()
            except BaseException as error:
                if not any(isinstance(leaf, Died) for leaf in leaves(error)):
                    raise
                self.sometimes["a worker died"] += 1
            finally:
                await engine.close()
            await trio.sleep(self.rng.expovariate(1.0))

    async def _step(self, name: str) -> None:
        await trio.sleep(self.rng.expovariate(1 / 0.05))
        if not self.is_calm and self.rng.random() < 0.01:
            raise Died(name)

    async def _see_it_end(self, ledger: Ledger, request_id: RequestId) -> None:
        while True:
            standing = await ledger.get(request_id)
            if standing.stage is SyncStage.SYNC_FINISHED:
                return
            if standing.status is Status.FAILED:
                await moves.resume(ledger, request_id)
            await trio.sleep(5)

    # ---- what is asked

    async def _judge(self, ledger: Ledger, request_id: RequestId) -> None:
        standing = await ledger.get(request_id)
        if standing.stage is not SyncStage.SYNC_FINISHED:
            self._violate(ENDS, f"{standing.status.value} at {standing.stage.value}: {standing.message}")
            return
        register = (await self.world.recipient()).register
        at_home = self.world.databases[register.home.database].instances[register.home.instance].items
        entries = (await moves.report(ledger, request_id)).of(EntryKind.STRAGGLER)
        named = Counter(bytes.fromhex(entry.data["item_id"]) for entry in entries)
        for item_id, is_late in self.begun.items():
            if item_id in at_home or (is_late and named[item_id]):
                continue
            self._violate(NAMED if is_late else BEFORE, f"item {item_id.hex()[-8:]} is not at {register}")
        for item_id, times in named.items():
            if times > 1 or not self.begun.get(item_id, False):
                self._violate(
                    ONCE, f"item {item_id.hex()[-8:]} is named {times} times; late: {self.begun.get(item_id)}"
                )
        self.sometimes["a straggler was named"] += bool(named)
        self.sometimes["a straggler was carried all the same"] += any(
            is_late and item_id in at_home for item_id, is_late in self.begun.items()
        )

    def _violate(self, rule: str, witness: str) -> None:
        self.violations.append(Violation(rule, witness))


def run_weak_fence(seed: int) -> WeakFence:
    """The run of this seed."""
    root = Path(tempfile.mkdtemp(prefix="moverq-weak-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        return simulate(seed, lambda: _run(seed, root))
    finally:
        shutil.rmtree(root)


async def _run(seed: int, root: Path) -> WeakFence:
    rng = random.Random(f"{seed} weak fence")
    world = await Ticking.make(root)
    old: MemoryDatabase = world.databases["DB1"]
    old.fence = rng.choice((FenceClass.B, FenceClass.C, FenceClass.D))
    await fill(world)
    weak = WeakFence(seed, world, rng, (await world.recipient()).register.home.instance)
    await weak.play()
    return weak
