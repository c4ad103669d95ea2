"""Who works here: clients, delivery agents, administrators, upkeep. They know nothing of faults or of rules.

Each takes its own script (`world.scripts`), one act after the other, at its time or as soon as the one before is
answered. A script outlives the process that its actor runs in: the act that was under way when that died is never
repeated (its outcome is not known, and the history says so); a delivery that was not acknowledged is, with its key, as
an MTA would.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import trio
import xxhash

import store
from moverq import moves
from moverq.endpoints.base import Home
from moverq.errors import (
    EndpointBroken,
    MailboxLocked,
    MailboxMoved,
    MoveError,
    NotFound,
    RequestRefused,
)
from moverq.ledger.ledger import Ledger
from moverq.model.ids import RequestId
from moverq.model.request import Status, SyncStage
from moverq.session import Place, Session
from moverq.transport import open_transport
from store.catalogue import queries
from store.database import Reading
from tests.sim.history import Op, Seen
from tests.sim.observer import Observer, look
from tests.sim.process import Process
from tests.sim.scenario import ADDRESSES, DATABASES, Act
from tests.sim.world import World

PATIENCE_S = 30.0
"""After that a client does not wait for its answer any more."""
KEYWORDS = ("$Work", "$Later", "$Junk")
REFUSALS = (MailboxLocked, MailboxMoved, NotFound, RequestRefused)


@attrs.define(eq=False)
class Known:
    """What an actor knows of a mailbox to act on: ids that it was told, dead ones too."""

    inbox: bytes
    items: list[bytes]
    folders: list[bytes]
    names: dict[bytes, tuple[bytes, str]]


@attrs.define(eq=False)
class Mail:
    """A message in an agent's hands until it is acknowledged: durable, as in an MTA's queue."""

    op: Op
    address: str
    key: bytes
    content: bytes
    submitted: bool = False


@attrs.define(eq=False)
class People:
    """All actors of a run, and what they have in their hands."""

    world: World
    observer: Observer
    known: dict[str, Known]
    mails: dict[str, list[Mail]] = attrs.Factory(dict)
    by_message: dict[tuple[bytes, bytes], Mail] = attrs.Factory(dict)
    sent: list[Mail] = attrs.Factory(list)
    requests: list[RequestId] = attrs.Factory(list)

    async def work(self, process: Process) -> None:
        """All actors of a front, until their scripts are over; then the transport goes on for ever."""
        world = self.world
        ledger = await process.open_ledger()
        async with open_transport(
            world.root / "transport.sqlite",
            self._deliverer(process),
            offload=process.offload(),
            now_ms=world.now_ms,
            rng=process.rng,
            workers=2,
        ) as transport:
            # In the nursery: one task an actor; each ends with its script.
            async with trio.open_nursery() as nursery:
                for actor in sorted(world.scripts):
                    if actor == "admin":
                        nursery.start_soon(self._administrate, process, ledger)
                    elif actor == "upkeep":
                        nursery.start_soon(self._look_after, process)
                    elif actor.startswith("agent"):
                        nursery.start_soon(self._deliver_all, process, actor, transport)
                    else:
                        nursery.start_soon(self._use_mailbox, process, actor)
            await trio.sleep_forever()

    async def _next(self, actor: str) -> Act | None:
        script = self.world.scripts[actor]
        if not script:
            return None
        await trio.sleep_until(script[0].at)
        return script.popleft()

    @property
    def is_over(self) -> bool:
        return not any(self.world.scripts.values()) and not any(self.mails.values())

    # ---- operations, recorded

    async def _do(
        self,
        op: Op,
        session: Session,
        verb: Callable[[Place], Awaitable[Any]],
    ) -> Any:
        """The operation, with its answer in the history. None where there is none."""
        world = self.world
        try:
            with trio.move_on_after(PATIENCE_S):
                answer = await session.use(verb)
                world.history.done(op, answer)
                world.say(op)
                return answer
            world.say(op, "gave up")
            self.observer.client_gave_up(op)
        except REFUSALS as error:
            self._note_quota(error, session)
            world.history.refused(op)
            world.say(op, type(error).__name__)
        except MoveError as error:
            if isinstance(error, EndpointBroken) and isinstance(error.__cause__, store.StoreFull):
                world.history.refused(op)
            if isinstance(error.__cause__, store.Corruption):
                world.violate("I20 a log without damage", f"{op}: {error}")
            world.say(op, type(error).__name__)
        return None

    def _note_quota(self, error: MoveError, session: Session) -> None:
        if isinstance(error.__cause__, store.QuotaExceeded):
            register = next(r for r in self.world.directory._recipients.values() if r.address == session.address)
            self.world.reach("quota hit" if register.register.epoch == 1 else "quota hit at the target of a move")

    def _begin(self, actor: str, address: str, verb: str, *args: Any) -> Op:
        return self.world.history.invoke(actor, address, verb, *args, at=round(trio.current_time(), 3))

    # ---- a client

    async def _use_mailbox(self, process: Process, actor: str) -> None:
        address = ADDRESSES[actor == "client2"]
        session = Session(address, process.directory, process.database)
        while (act := await self._next(actor)) is not None:
            await self._act(session, actor, address, act)

    async def _act(self, session: Session, actor: str, address: str, act: Act) -> None:
        known = self.known[address]
        one, two, three = act.numbers
        item = known.items[one % len(known.items)]
        folder = known.folders[two % len(known.folders)]
        match act.verb:
            case "append":
                await self._append(session, actor, address, folder, one)
            case "flag":
                flags, words = three % 32, tuple(sorted(set(KEYWORDS[: three % 4])))
                op = self._begin(actor, address, "flag", item, flags, words)
                await self._do(op, session, lambda p: p.mailbox.set_flags([_item(item)], flags, words))
            case "move":
                op = self._begin(actor, address, "move", item, folder)
                await self._do(op, session, lambda p: p.mailbox.move([_item(item)], _folder(folder)))
            case "copy":
                op = self._begin(actor, address, "copy", item, folder)
                await self._do(op, session, lambda p: p.mailbox.copy([_item(item)], _folder(folder)))
            case "delete":
                op = self._begin(actor, address, "delete", item)
                await self._do(op, session, lambda p: p.mailbox.delete([_item(item)]))
            case "purge":
                op = self._begin(actor, address, "purge", item)
                await self._do(op, session, lambda p: p.mailbox.purge([_item(item)]))
            case "read":
                await self.read(session, actor, address)
            case "setting":
                text = f'"{three % 3}"' if one % 3 else "unset"
                op = self._begin(actor, address, "setting", "x-colour", text)
                value = str(three % 3) if one % 3 else None
                await self._do(op, session, lambda p: p.mailbox.set_setting("x-colour", value))
            case _:
                await self._act_on_folders(session, actor, address, act)

    async def _append(self, session: Session, actor: str, address: str, folder: bytes, size: int) -> None:
        number = len(self.world.history.ops)
        content = b"Subject: %d\r\n\r\n" % number + b"x" * (size * 7 % 700)
        flags, words = size % 16, KEYWORDS[: size % 2]
        op = self._begin(actor, address, "append", xxhash.xxh3_128_digest(content), folder, flags, words)
        item = store.NewItem(content=content, received_ms=self.world.now_ms(), flags=flags, keywords=words)

        async def append(place: Place) -> store.Added:
            (added,) = await place.mailbox.append(_folder(folder), [item])
            return added

        added = await self._do(op, session, append)
        if added is not None:
            self.known[address].items.append(added.item_id)

    async def _act_on_folders(self, session: Session, actor: str, address: str, act: Act) -> None:
        known = self.known[address]
        one, two, three = act.numbers
        own = [folder for folder in known.folders if folder != known.inbox]
        parents = [b"", *own]
        match act.verb:
            case "folder":
                parent, name = parents[three % len(parents)], f"F{len(self.world.history.ops)}"
                op = self._begin(actor, address, "create", parent, name)
                made = await self._do(
                    op, session, lambda p: p.mailbox.create_folder(_folder(parent) if parent else None, name)
                )
                if made is not None:
                    known.folders.append(made)
                    known.names[made] = parent, name
            case "rename":
                await self._rename(session, actor, address, own[one % len(own)], b"", f"R{two % 4}")
            case "nest":
                folder, parent = own[one % len(own)], own[two % len(own)]
                await self._rename(session, actor, address, folder, parent, f"N{two % 4}")
            case "swap" | "cycle":
                await self._rotate(session, actor, address, own[one % len(own) :][: 2 if act.verb == "swap" else 3])
            case "invert":
                folder, parent = own[one % len(own)], own[two % len(own)]
                # Child and parent change places.
                if await self._rename(session, actor, address, folder, parent, f"I{two % 4}") and (
                    await self._rename(session, actor, address, folder, b"", f"J{two % 4}")
                ):
                    if self.observer.is_being_copied(address):
                        self.world.reach("inversion during the copy")
                    await self._rename(session, actor, address, parent, folder, f"K{two % 4}")
            case "drop":
                folder = own[one % len(own)]
                op = self._begin(actor, address, "drop", folder)
                await self._do(op, session, lambda p: p.mailbox.delete_folder(_folder(folder)))
            case _:
                raise AssertionError(act.verb)

    async def _rename(
        self, session: Session, actor: str, address: str, folder: bytes, parent: bytes, name: str
    ) -> bool:
        op = self._begin(actor, address, "rename", folder, parent, name)

        async def rename(place: Place) -> bool:
            await place.mailbox.move_folder(_folder(folder), _folder(parent) if parent else None, name)
            return True

        if await self._do(op, session, rename):
            self.known[address].names[folder] = parent, name
            return True
        return False

    async def _rotate(self, session: Session, actor: str, address: str, folders: list[bytes]) -> None:
        """The folders take each other's names, by way of one that is put aside."""
        names = [self.known[address].names[folder] for folder in folders]
        if len(folders) < 2 or not await self._rename(session, actor, address, folders[0], b"", "aside"):
            return
        if self.observer.is_being_copied(address):
            self.world.reach("swap during the copy" if len(folders) == 2 else "3-cycle during the copy")
        for number, folder in enumerate(folders[1:]):
            await self._rename(session, actor, address, folder, *names[number])
        await self._rename(session, actor, address, folders[0], *names[-1])

    async def read(self, session: Session, actor: str, address: str) -> Seen | None:
        """All of the mailbox, of one moment. At a place that clients are sent away from, they are sent away."""
        op = self._begin(actor, address, "read")

        async def read(place: Place) -> Seen:
            return await place.database.read(lambda reading: _look(reading, place))

        seen: Seen | None = await self._do(op, session, read)
        return seen

    # ---- an agent

    def _deliverer(self, process: Process) -> Callable[..., Awaitable[None]]:
        async def deliver(*, recipient: str, sender: str, content: bytes, key: bytes, received_ms: int) -> None:
            mail = self.by_message[key, content]
            await self._deliver(process, Session(recipient, process.directory, process.database), mail)

        return deliver

    async def _deliver(self, process: Process, session: Session, mail: Mail) -> None:
        """One try. Raises what the session raises."""

        async def deliver(place: Place) -> store.Added:
            return await place.mailbox.deliver(mail.content, key=mail.key)

        added = await session.use(deliver, lock_wait_s=0)
        if mail.op.outcome == "unknown":
            self.world.history.done(mail.op, added)
            if added.item_id is not None:
                self.known[mail.address].items.append(added.item_id)
        if added.duplicate:
            self.world.reach("duplicate delivery suppressed")
        self.world.say(mail.op, "again" if added.duplicate else "")

    async def _deliver_all(self, process: Process, actor: str, transport: Any) -> None:
        mails = self.mails.setdefault(actor, [])
        while True:
            for mail in list(mails):  # what the last life of this process did not see acknowledged
                await self._deliver_until_told(process, mail)
                mails.remove(mail)
            act = await self._next(actor)
            if act is None:
                return
            mail = self._mail(actor, act)
            if act.verb != "submit":
                mails.append(mail)
                continue
            self.by_message[mail.key, mail.content] = mail
            mail.submitted = True
            with suppress(MoveError):
                await transport.submit("sender@example.net", mail.address, mail.content, mail.key)

    def _mail(self, actor: str, act: Act) -> Mail:
        one, two, _ = act.numbers
        if act.verb == "again" and self.sent:
            return self.sent[one % len(self.sent)]  # an MTA that did not hear the answer
        address = ADDRESSES[two % 4 == 3]
        number = len(self.world.history.ops)
        content = b"Subject: mail %d\r\n\r\n" % number + b"m" * (one * 5 % 500)
        inbox = self.known[address].inbox
        op = self._begin(actor, address, "deliver", xxhash.xxh3_128_digest(content), inbox, 0, ())
        # Of one sender many messages may share an envelope: only the bytes tell them apart.
        return Mail(op, address, b"envelope %d" % (one % 2) if one % 5 == 0 else b"key %d" % number, content)

    async def _deliver_until_told(self, process: Process, mail: Mail) -> None:
        wait_s = 0.05
        while True:
            try:
                await self._deliver(process, Session(mail.address, process.directory, process.database), mail)
                if mail not in self.sent:
                    self.sent.append(mail)
                return
            except MoveError as error:
                if isinstance(error, RequestRefused):
                    self._note_quota(error, Session(mail.address, process.directory, process.database))
                    if mail.op.outcome == "unknown" and not self.world.is_calm:
                        self.world.history.refused(mail.op)
                    return
                await trio.sleep(wait_s)
                wait_s = min(wait_s * 2, 2.0)

    # ---- an administrator

    async def _administrate(self, process: Process, ledger: Ledger) -> None:
        quota = self.world.scenario.quota_bytes
        if quota is not None and not self.world.history.ops:
            op = self._begin("admin", ADDRESSES[0], "setting", "quota_bytes", str(quota))
            session = Session(ADDRESSES[0], process.directory, process.database)
            await self._do(op, session, lambda place: place.mailbox.set_setting("quota_bytes", quota))
        while (act := await self._next("admin")) is not None:
            try:
                with trio.move_on_after(PATIENCE_S):
                    await self._ask(process, ledger, act)
                    self.world.say("admin", act.verb)
            except (RequestRefused, NotFound) as error:
                self.world.say("admin", act.verb, "refused:", type(error).__name__)
            except MoveError as error:
                self.world.say("admin", act.verb, type(error).__name__)

    async def _ask(self, process: Process, ledger: Ledger, act: Act) -> None:
        one, two, three = act.numbers
        if act.verb == "new":
            await self._new(process, ledger, ADDRESSES[one % 2], two, three)
            return
        if not self.requests:
            return
        request_id = self.requests[one % len(self.requests)]
        match act.verb:
            case "suspend":
                await moves.suspend(ledger, request_id)
            case "resume":
                await moves.resume(ledger, request_id)
            case "complete":
                await moves.complete(ledger, request_id)
            case "remove":
                facts = self.observer.requests[request_id].facts if request_id in self.observer.requests else {}
                await moves.remove(ledger, request_id, force=True)
                self.world.reach("remove asked for")
                if "lock_intent" in facts and "committed" not in facts:
                    self.world.reach("abort races commit")
            case "set":
                await moves.set_move(ledger, request_id, suspend_when_ready_to_complete=bool(two % 2))
            case "rollback":
                while not (await ledger.get(request_id)).status.is_final:  # noqa: ASYNC110 (another process ends it)
                    await trio.sleep(0.5)
                back = await moves.rollback(ledger, process.directory, request_id)
                self.requests.append(back.request.request_id)
                self.world.reach("rollback asked for")
            case "retarget":
                # Another target: the move is given up, and a new one asked for as soon as it is gone.
                address = (await ledger.get(request_id)).request.address
                await moves.remove(ledger, request_id, force=True)
                while True:
                    await trio.sleep(0.5)
                    try:
                        await moves.get(ledger, request_id)
                    except NotFound:
                        break
                await self._new(process, ledger, address, two + 1, three)
                self.world.reach("retargeted")

    async def _new(self, process: Process, ledger: Ledger, address: str, two: int, three: int) -> None:
        home: Home = (await process.directory.locate(address)).register.home
        others = [name for name in DATABASES if name != home.database]
        scenario = self.world.scenario
        made = await moves.new_move(
            ledger,
            process.directory,
            address,
            others[two % 2],
            offline=three % 9 == 0,
            suspend_when_ready_to_complete=three % 7 == 0,
            lock_budget_ms=scenario.lock_budget_ms,
            soak_s=scenario.soak_s,
            retention_s=3.0,
        )
        self.requests.append(made.request.request_id)

    # ---- upkeep

    async def _look_after(self, process: Process) -> None:
        while (act := await self._next("upkeep")) is not None:
            name = DATABASES[act.numbers[0] % len(DATABASES)]
            try:
                database = await process.database(name)
                if act.verb == "maintain":
                    done = await database.maintain()
                    if done.cut:
                        self.world.reach("feed cut")
                    if done.dropped:
                        self.world.reach("dead segments dropped")
                    self.world.say("maintained", name, done)
                else:
                    made = await database.checkpoint()
                    self.world.reach("checkpoint made")
                    self.world.say("checkpoint", name, made.head.position)
            except (MoveError, store.StoreError) as error:
                self.world.say(act.verb, name, type(error).__name__)


def _look(reading: Reading, place: Place) -> Seen:
    with reading.db:
        info = queries.mailbox(reading.db, place.mailbox.instance)
        if info.keep_until_ms is not None:
            raise store.NoSuchMailbox(instance=info.instance)
        if info.mode is store.Mode.RETIRED:
            raise store.MailboxMoved(instance=info.instance, home=info.home)
        if info.mode is store.Mode.SEALED:
            raise store.MailboxSealed(instance=info.instance, why="it is a move's target")
        return look(reading.db, info.instance)


def _item(item_id: bytes) -> store.ItemId:
    return store.ItemId(item_id)


def _folder(folder_id: bytes) -> store.FolderId:
    return store.FolderId(folder_id)


async def operate(people: People, process: Process, ledger: Ledger) -> bool:
    """What an operator does for the moves that wait for one. True: every move has come to its end."""
    ended = True
    for standing in await ledger.find():
        request_id, status = standing.request.request_id, standing.status
        if standing.wishes.remove:
            ended = False
            continue
        if status in (Status.FAILED, Status.SUSPENDED, Status.AUTO_SUSPENDED):
            ended = False
            if "remove the request" in standing.message:  # overtaken by another move: the sentence says what to do
                await moves.remove(ledger, request_id)
                continue
            people.world.reach(f"an operator resumed a move that was {status.value}")
            if request_id in people.observer.requests and "differed" in people.observer.requests[request_id].facts:
                people.world.reach("an operator had both sides compared anew")
            await moves.resume(ledger, request_id)
        elif not status.is_final or standing.stage is not SyncStage.SYNC_FINISHED:
            ended = False
            if status.is_final and people.world.clock_fell_back and not standing.wishes.finish:
                # A soak ends by the wall clock: one that fell back by hours makes it so much longer.
                with suppress(RequestRefused):
                    await moves.complete(ledger, request_id)
    return ended


__all__ = ["Known", "Mail", "People", "operate"]
