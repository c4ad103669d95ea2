"""One run: a world from the template, people and processes in it, faults; then no more faults, and every move must end.

safety phase    scripts and faults, for as long as both last; the rules are asked after every effect
liveness phase  faults stop, an operator resumes what waits for one: within `LIVENESS_S` every move is over,
                every message delivered, every client answered
the end         a last look at every mailbox at its home; the history is judged, the logs are replayed
"""

import os
import random
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

import apsw
import attrs
import structlog
import trio

import store
from moverq.directory.directory import DatabaseEntry, Server
from moverq.directory.memory import MemoryDirectory
from moverq.endpoints.base import Home
from moverq.job import Job
from moverq.ledger.ledger import Ledger
from moverq.model.digest import MODULUS
from moverq.model.ids import InstanceId, MailboxId
from moverq.model.request import SyncStage
from moverq.service import Service
from moverq.session import Session
from store.catalogue.compare import differences
from store.catalogue.schema import is_durable, open_catalogue
from store.layout import Layout
from tests.sim.checkers import RULES, Met
from tests.sim.history import History
from tests.sim.judge import judge
from tests.sim.machine import DATABASES as FOLDER
from tests.sim.machine import Machine
from tests.sim.observer import Observer
from tests.sim.process import Process
from tests.sim.recovery import RULE as RECOVERY
from tests.sim.recovery import check_recovery
from tests.sim.scenario import ADDRESSES, DATABASES, Fault, Scenario
from tests.sim.seeded import simulate
from tests.sim.workloads import Known, People, operate
from tests.sim.world import EPOCH_MS, LIMITS, Violation, World
from tests.support.store_world import check_sums, replayed

LIVENESS_S = 900.0
RESTART_S = 0.3
"""How long, on average, until somebody starts a process again that died."""
MAILBOXES = {
    address: (MailboxId(b"mailbox " + name), InstanceId(b"first instance %c" % name[3]), database)
    for address, name, database in zip(
        (*ADDRESSES, "eve"), (b"of ada--", b"of bob--", b"of eve--"), ("DB1", "DB2", "DB1"), strict=True
    )
}


@attrs.frozen
class Outcome:
    """What became of a run. `digest`: of its trace; the same seed gives the same."""

    scenario: Scenario
    violations: tuple[Violation, ...]
    sometimes: Counter[str]
    digest: str
    lines: list[str] = attrs.field(repr=False)
    virtual_s: float = 0.0
    operations: int = 0
    moves: int = 0


def run(scenario: Scenario) -> Outcome:
    """The scenario's outcome. The product is as it is patched when this is called."""
    root = Path(tempfile.mkdtemp(prefix="moverq-sim-", dir=_memory()))
    shutil.copytree(template() / FOLDER, root / FOLDER)
    return simulate(scenario.seed, lambda: _run(scenario, root))


@cache
def _memory() -> str:
    """Where files cost nothing: syncs are free there, and power loss is the test disk's to play."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


@cache
def template() -> Path:
    """Three databases with three small mailboxes, made once a process, always the same."""
    root = Path(tempfile.mkdtemp(prefix="moverq-sim-template-", dir=_memory()))
    simulate(0, lambda: _make_template(root))
    return root


async def _make_template(root: Path) -> None:
    (root / FOLDER).mkdir()
    for name in DATABASES:
        store.create_database(root / FOLDER / name, created_ms=EPOCH_MS)
    for mailbox_id, instance, at in MAILBOXES.values():
        async with store.open_database(root / FOLDER / at, clock=lambda: EPOCH_MS, offload=_AtOnce) as database:
            await database.create_mailbox(store.MailboxId(mailbox_id), store.InstanceId(instance))
            mailbox = database.mailbox(store.InstanceId(instance))
            _, (inbox,), _ = await database.account(store.InstanceId(instance))
            folders = [inbox.folder_id, *[await mailbox.create_folder(None, name) for name in "ABC"]]
            for number in range(7):
                content = b"Subject: old %d of %s\r\n\r\n" % (number, mailbox_id) + b"o" * (number * 97)
                item = store.NewItem(content=content, received_ms=EPOCH_MS - number, flags=number % 3)
                await mailbox.append(folders[number % 4], [item])
            await mailbox.deliver(b"Subject: with key\r\n\r\n" + mailbox_id, key=b"old key")


class _AtOnce:
    async def __call__(self, fn: Callable[[], object]) -> object:
        return fn()


async def _run(scenario: Scenario, root: Path) -> Outcome:
    machine = Machine(root)
    world = World(
        scenario=scenario,
        machine=machine,
        directory=await _directory(),
        history=History(),
        rng=random.Random(f"{scenario.seed} faults"),
    )
    for act in scenario.acts:
        world.scripts.setdefault(act.actor, deque()).append(act)
    observer = Observer(world)
    observer.look_at_directory("", "")
    observer.open()
    observer.checkers = [rule(world, observer) for rule in (*RULES, Met)]
    people = People(world, observer, {address: _begin(world, observer, address) for address in ADDRESSES})
    theatre = Theatre(world, observer, people)
    with ExitStack() as patches:
        _patch(patches, world)
        await theatre.play()
    observer.close()
    machine.close()
    return Outcome(
        scenario,
        tuple(world.violations),
        world.sometimes,
        world.digest,
        world.lines,
        trio.current_time(),
        len(world.history.ops),
        len(people.requests),
    )


async def _directory() -> MemoryDirectory:
    directory = MemoryDirectory()
    for number, name in enumerate(DATABASES):
        await directory.add_server(Server(name=f"MBX{number}", version="2010"))
        await directory.add_database(DatabaseEntry(name=name, server=f"MBX{number}", path=f"{FOLDER}/{name}"))
    for address in ADDRESSES:
        mailbox_id, instance, database = MAILBOXES[address]
        await directory.add_recipient(mailbox_id, address, Home(database, instance))
    return directory


def _begin(world: World, observer: Observer, address: str) -> Known:
    _, instance, database = MAILBOXES[address]
    seen = observer.seen(Home(database, instance))
    world.history.begin[address] = seen
    folders = {folder.name: folder_id for folder_id, folder in seen.folders.items()}
    return Known(
        inbox=folders["INBOX"],
        items=list(seen.items),
        folders=list(seen.folders),
        names={folder_id: (folder.parent_id, folder.name) for folder_id, folder in seen.folders.items()},
    )


def _patch(patches: ExitStack, world: World) -> None:
    """Seams of a run that are no bounds: what the checkpoint relies on, file locks that may do nothing, and log lines,
    which belong to the trace."""

    def noted(connection: object) -> bool:
        durable = is_durable(connection)  # type: ignore[arg-type]
        if durable:
            world.machine.rely_on_catalogue(Path(connection.filename).parent.name)  # type: ignore[attr-defined]
        return durable

    dismiss = Job.dismiss

    def make_room(job: Job) -> None:
        world.reach("a move that only waits made room for another")
        dismiss(job)

    def told(_logger: object, level: str, event: MutableMapping[str, object]) -> NoReturn:
        world.say(f"{level}:", event.pop("event"), dict(event))
        raise structlog.DropEvent

    patches.callback(structlog.reset_defaults)
    structlog.configure(processors=[told])
    patches.enter_context(patch("store.database.is_durable", noted))
    patches.enter_context(patch("store.retention.TOMBSTONES_KEPT", world.scenario.tombstones))
    patches.enter_context(patch("moverq.job.Job.dismiss", make_room))
    if not world.scenario.file_locks:
        patches.enter_context(patch("moverq.service.FileLock", _NoLock))


class _NoLock:
    """A file lock on a file system without them."""

    def __init__(self, path: Path) -> None: ...
    def try_acquire(self) -> bool:
        return True

    def release(self) -> None: ...


@attrs.define(eq=False)
class Theatre:
    """Starts processes, lets faults strike, and says when it is over."""

    world: World
    observer: Observer
    people: People
    alive: dict[str, Process] = attrs.Factory(dict)
    lost_rows: set[str] = attrs.Factory(set)
    _lives: Counter[str] = attrs.Factory(Counter)
    _power: trio.Event = attrs.Factory(trio.Event)
    """Set: there is power."""
    _quiet: trio.Event = attrs.Factory(trio.Event)
    """Set when the last process is gone."""

    async def play(self) -> None:
        world = self.world
        self._power.set()
        with world.scope:
            # In the nursery: a supervisor for each process, one task for each fault, and the director's own.
            async with trio.open_nursery() as nursery:
                for number in range(world.scenario.workers):
                    nursery.start_soon(self._keep_alive, f"worker{number}", self._work)
                nursery.start_soon(self._keep_alive, "front0", self.people.work)
                # In the nursery: the faults; it ends when all have struck, and have ended.
                async with trio.open_nursery() as faults:
                    for fault in world.scenario.faults:
                        faults.start_soon(self._strike, fault)
                await self._calm_down()
                nursery.cancel_scope.cancel()
        if not world.violations:
            self._last_judgement()

    # ---- processes

    async def _keep_alive(self, name: str, body: Callable[[Process], Awaitable[None]]) -> None:
        """Whatever ends a process, somebody starts it again."""
        rng = random.Random(f"{self.world.scenario.seed} {name}")
        while True:
            await self._power.wait()
            self._lives[name] += 1
            life = random.Random(f"{self.world.scenario.seed} {name} {self._lives[name]}")
            process = Process(name, self.world, self.observer, life)
            self.alive[name] = process
            self.world.say(name, "starts")
            try:
                await process.run(body)
            finally:
                del self.alive[name]
            self.world.say(name, "is gone")
            if not self.alive:
                self._quiet.set()
            await trio.sleep(rng.expovariate(1 / RESTART_S))

    async def _work(self, process: Process) -> None:
        ledger = await process.open_ledger()
        service = Service(
            ledger=ledger,
            directory=process.directory,
            endpoints=process.endpoint,
            make_offload=process.offload,
            rng=process.rng,
            limits=LIMITS,
        )
        await service.run()

    # ---- faults

    async def _strike(self, fault: Fault) -> None:
        world = self.world
        await trio.sleep_until(fault.at)
        world.say("fault:", fault)
        process = self.alive.get(fault.where)
        match fault.kind:
            case "kill":
                if process is not None:
                    process.die()
            case "kill in call":
                if process is not None:
                    process.dies_in_calls = fault.number % 150 + 1
            case "stop":
                if process is not None:
                    process.scope.cancel()
            case "pause":
                if process is not None:
                    before = dict(self.observer.registers)
                    process.paused_until = trio.current_time() + fault.for_s * 4
                    await trio.sleep_until(process.paused_until)
                    if not process.is_dead and fault.where.startswith("worker"):
                        committed = before != self.observer.registers
                        world.reach(f"a stale worker wakes{' after the commit' if committed else ''}")
            case "power":
                await self._power_loss(fault.number)
            case "clock":
                hours = fault.number % 11 - 5
                world.jump_ms += hours * 3_600_000
                world.clock_fell_back |= hours < 0
                world.reach("the clock jumped forward" if hours > 0 else "the clock jumped back")
            case "map loses a row":
                self._lose_a_row(fault.number)
            case "catalogue":
                world.machine.keep_catalogues(*DATABASES)
            case _:
                world.windows.append((fault, trio.current_time() + fault.for_s))
                await trio.sleep(fault.for_s)
                world.reach(fault.kind)

    def _lose_a_row(self, number: int) -> None:
        """The ledger's map of a move that copies forgets an item: source, target and ledger are not at one. It compares
        them anew by itself once, and then as often as an operator resumes it."""
        for request in self.observer.requests.values():
            path = self.world.root / "moves" / f"{request.request.request_id}.sqlite"
            if "committed" in request.facts or not path.exists():
                continue
            with apsw.Connection(str(path), vfs="cksmvfs") as db:
                rows = list(db.execute("SELECT item_id, folder_id FROM items WHERE NOT dead AND bad IS NULL"))
                if rows:
                    item_id, folder_id = rows[number % len(rows)]
                    db.execute("DELETE FROM items WHERE item_id = ?", (item_id,))
                    left = db.execute("SELECT size, digest FROM items WHERE folder_id = ? AND NOT dead", (folder_id,))
                    sizes = [(size, int.from_bytes(digest, "big")) for size, digest in left]
                    db.execute(
                        "UPDATE sums SET items = ?, bytes = ?, total = ? WHERE folder_id = ?",
                        (
                            len(sizes),
                            sum(size for size, _ in sizes),
                            (sum(digest for _, digest in sizes) % MODULUS).to_bytes(16, "big"),
                            folder_id,
                        ),
                    )
                    self.world.say("the map lost", item_id.hex()[-12:])
                    self.lost_rows.add(request.request.request_id)

    async def _power_loss(self, seed: int) -> None:
        if not self._power.is_set():
            return
        self._power = trio.Event()
        self._quiet = trio.Event()
        for process in list(self.alive.values()):
            process.die()
        if self.alive:
            await self._quiet.wait()
        self.observer.close()
        fallen = self.world.machine.power_off(seed)
        for name in DATABASES:
            found = check_recovery(
                self.world.machine.path(name),
                self.world.root / "scratch",
                now_ms=self.world.now_ms(),
                rng=random.Random(f"{seed} {name} recovery"),
            )
            if found is not None:
                self.world.violate(RECOVERY, f"{name}: {found}")
        self.observer.open()
        self.world.say("power lost", fallen)
        self.world.reach("power lost")
        if fallen:
            self.world.reach("a catalogue fell back")
        self._power.set()

    # ---- the end

    async def _calm_down(self) -> None:
        """Faults have stopped. Every move ends, all mail is delivered."""
        world = self.world
        world.windows.clear()
        for process in self.alive.values():
            process.dies_in_calls = 0
        world.is_calm = True
        world.say("calm")
        process = Process("operator", world, self.observer, random.Random(f"{world.scenario.seed} operator"))
        await process.run(self._see_it_end)

    async def _see_it_end(self, process: Process) -> None:
        world = self.world
        ledger = await process.open_ledger()
        until = max(trio.current_time(), self._last_act_at()) + LIVENESS_S
        before = False
        while True:
            ended = await operate(self.people, process, ledger) and self.people.is_over and self._is_delivered()
            if ended and before:  # twice: an act that was under way the first time, a new move say, is seen now
                break
            before = ended
            if trio.current_time() > until:
                world.violate("liveness: all ends once faults stop", await self._what_is_left(ledger))
                return
            await trio.sleep(4.0)
        await self._check_reports(ledger)
        for name in DATABASES:
            await process.database(name)  # an opener applies what somebody who died left in the log
        for address in ADDRESSES:
            session = Session(address, process.directory, process.database)
            if await self.people.read(session, "the last look", address) is None:
                world.violate("liveness: every mailbox is open", f"{address} cannot be read at its home")

    def _last_act_at(self) -> float:
        return max((act.at for act in self.world.scenario.acts), default=0.0)

    async def _what_is_left(self, ledger: Ledger) -> str:
        found = [
            f"{s.request.request_id[:4]} of {s.request.address} is {s.status.value} at {s.stage.value}: {s.message}"
            for s in await ledger.find()
            if s.stage is not SyncStage.SYNC_FINISHED or not s.status.is_final
        ]
        found += [f"{actor} has {len(script)} acts to do" for actor, script in self.world.scripts.items() if script]
        found += [f"not delivered: {mail.op}" for mails in self.people.mails.values() for mail in mails]
        found += [] if self._is_delivered() else ["mail in the queue"]
        return f"{LIVENESS_S:.0f} s later: " + "; ".join(found)

    def _is_delivered(self) -> bool:
        """Nothing waits in the queue; what it refused for good (a quota) stays in it."""
        path = self.world.root / "transport.sqlite"
        with apsw.Connection(str(path), vfs="cksmvfs") as db:
            return db.execute("SELECT count(*) FROM message WHERE failed IS NULL").get == 0

    async def _check_reports(self, ledger: Ledger) -> None:
        """A bug never ends a worker; it is in the report of its move, with its traceback."""
        for standing in await ledger.find():
            for entry in await ledger.entries(standing.request.request_id):
                if entry.data.get("stack_trace"):
                    self.world.violate("no bug in a report", str(entry.data["stack_trace"]))
            counters = standing.counters
            if standing.request.request_id in self.lost_rows and standing.status.is_final:
                self.world.reach("verify mismatch repaired")
            if not counters.digest_source == counters.digest_target == counters.digest_ledger:
                self.world.violate("I18 digests agree", str(counters))

    def _last_judgement(self) -> None:
        world = self.world
        self._check_homes()
        for checker in self.observer.checkers:
            checker.over()
        for violation in judge(world.history):
            world.violate(violation.rule, violation.witness)
        for name in DATABASES:
            self._replay(name)

    def _replay(self, name: str) -> None:
        """The log alone says what the catalogue says."""
        path = self.world.machine.path(name)
        try:
            with closing(open_catalogue(Layout(path).catalogue)) as live, closing(replayed(path)) as other:
                if found := differences(live, other):
                    self.world.violate("I19 a rebuilt catalogue is the live one", f"{name}: {found[0]}")
                check_sums(live)
        except AssertionError as error:
            self.world.violate("I18 maintained sums are those of the items", f"{name}: {error}")
        except store.StoreError as error:
            self.world.violate("I20 a log without damage", f"{name}: {error}")

    def _check_homes(self) -> None:
        """Each mailbox is open at its home, and nobody else has an instance of it, but for what was retired by a move
        whose record an operator has removed: absence proves nothing, so that stays and is reported."""
        for mailbox_id, register in self.observer.registers.items():
            found = self.observer.instance_at(register.home)
            if found is None or found.mode is not store.Mode.OPEN:
                self.world.violate("liveness: every mailbox is open", f"{register}: {found}")
            for home, other in self.observer.instances.items():
                if other.mailbox_id == mailbox_id and home != register.home and other.mode is not store.Mode.RETIRED:
                    self.world.violate("liveness: nothing is left over", f"{home} is {other.mode.name}")
