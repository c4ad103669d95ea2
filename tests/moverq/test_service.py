"""The worker: many requests, its limits, stopping, and operators who speak while it runs."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog.testing
import trio

from moverq import moves
from moverq.endpoints.base import Home
from moverq.endpoints.memory import MemoryEndpoint
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable, MoveError, NotFound, RequestRefused
from moverq.flow.file_lock import FileLock
from moverq.ledger.ledger import Changes
from moverq.model.ids import MailboxId, RequestId
from moverq.model.request import Status, SyncStage
from moverq.phases.rehearsal import HOLDS_FOR_S
from moverq.service import Service
from tests.support.move_world import ADDRESS, SMALL, World, fill

DAY_S = 86_400.0


async def people(world: World, count: int) -> list[str]:
    addresses = []
    for n in range(count):
        mailbox_id = MailboxId(n.to_bytes(16, "big"))
        mailbox = MemoryEndpoint("DB1", world.databases["DB1"]).add_mailbox(mailbox_id)
        await mailbox.deliver(f"Subject: for {n}\r\n\r\n".encode())
        address = f"p{n}@example.org"
        await world.directory.add_recipient(mailbox_id, address, Home("DB1", mailbox.instance))
        addresses.append(address)
    return addresses


async def deliver_at_home(world: World, address: str, content: bytes) -> None:
    home = (await world.directory.locate(address)).register.home
    await MemoryEndpoint(home.database, world.databases[home.database]).mailbox(home.instance).deliver(content)


async def test_draining_moves_everybody_and_ends(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    engine = world.engine()
    ledger = await engine.ledger()
    for n, address in enumerate(await people(world, 7)):
        await moves.new_move(ledger, engine.directory, address, "DB2" if n % 2 else "DB3", batch_name="all")
    await (await engine.service()).run(drain=True)
    assert {s.status for s in await moves.list_moves(ledger, batch_name="all")} == {"Completed"}
    await engine.close()


async def test_draining_does_not_end_because_a_move_ends_while_the_next_is_chosen(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was at work, so nothing else could be chosen; and then nothing is at work."""
    world = await World.make(tmp_path)

    async def step(name: str) -> None:
        if name == "DB2.write_items:before":
            await trio.sleep(60)  # the worker looks meanwhile

    engine = world.engine(step=step, limits=attrs.evolve(SMALL, max_active_moves_per_target_mdb=1))
    service, ledger = await engine.service(), await engine.ledger()
    for address in await people(world, 4):
        await moves.new_move(ledger, engine.directory, address, "DB2")
    start = service._start

    async def late(_: Service, chosen: Any, jobs: Any, tools: Any) -> None:
        while service._jobs:
            await tools.freed.wait(tools.freed.version)
        await start(chosen, jobs, tools)

    monkeypatch.setattr(Service, "_start", late)
    await service.run(drain=True)
    assert {s.status for s in await moves.list_moves(ledger)} == {"Completed"}


async def test_draining_does_not_end_because_another_worker_has_what_was_chosen(
    tmp_path: Path, autojump_clock: object
) -> None:
    """There was room for one, and the others waited for it."""
    world = await World.make(tmp_path)
    engine = world.engine(limits=attrs.evolve(SMALL, max_active_moves_per_target_mdb=1))
    service, ledger = await engine.service(), await engine.ledger()
    moved = [await moves.new_move(ledger, engine.directory, a, "DB2") for a in await people(world, 4)]
    first = moved[0].request.request_id
    lock = FileLock(ledger.lock_path(first))
    assert lock.try_acquire()
    await service.run(drain=True)
    lock.release()
    found = [s.status for s in await moves.list_moves(ledger) if s.request_id != first]
    assert found == ["Completed"] * 3


async def test_a_failed_move_holds_up_nobody(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    engine = world.engine()
    ledger = await engine.ledger()
    addresses = await people(world, 3)
    ids = [(await moves.new_move(ledger, engine.directory, a, "DB2")).request.request_id for a in addresses]
    instance = world.databases["DB1"].instances[(await ledger.get(ids[0])).request.source.instance]
    instance.unreadable[next(iter(instance.items))] = "gone bad"
    await (await engine.service()).run(drain=True)
    assert [(await moves.get(ledger, i)).status for i in ids] == ["Failed", "Completed", "Completed"]


async def test_moves_that_soak_hold_up_no_others_and_each_is_looked_after(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    limits = attrs.evolve(SMALL, max_quiet_moves_per_mrs=2, max_total_moves_per_mrs=2)
    engine = world.engine(limits=limits)
    service, ledger = await engine.service(), await engine.ledger()
    addresses = await people(world, 7)
    ids = [(await moves.new_move(ledger, engine.directory, a, "DB2")).request.request_id for a in addresses]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(60)
        assert {(await moves.get(ledger, i)).status for i in ids} == {"Completed"}
        assert len(service.progress) <= 3
        said = [len(await ledger.entries(i)) for i in ids]
        # What comes to the new homes is carried back to each of the old ones, by turns.
        for address in addresses:
            await deliver_at_home(world, address, b"Subject: at the new home\r\n\r\n")
        await trio.sleep(4 * 2 * limits.quiet_turn_s)
        for i in ids:
            source = world.databases["DB1"].instances[(await ledger.get(i)).request.source.instance]
            assert len(source.items) == 2
        assert [len(await ledger.entries(i)) for i in ids] == said
        # And what an operator wants is not waited for.
        await moves.complete(ledger, ids[-1])
        await trio.sleep(limits.quiet_turn_s / 3)
        assert (await moves.get(ledger, ids[-1])).sync_stage == "SyncFinished"
        service.stop()


@pytest.mark.parametrize("for_what", ["a word", "a date"])
async def test_moves_that_wait_to_be_completed_take_turns_and_say_nothing_of_it(
    for_what: str, tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    limits = attrs.evolve(SMALL, max_quiet_moves_per_mrs=1, max_total_moves_per_mrs=1)
    engine = world.engine(limits=limits)
    service, ledger = await engine.service(), await engine.ledger()
    addresses = await people(world, 4)
    date = world.now + 3_600_000
    wait: dict[str, Any] = (
        {"complete_after_ms": date} if for_what == "a date" else {"suspend_when_ready_to_complete": True}
    )
    ids = [(await moves.new_move(ledger, engine.directory, a, "DB2", **wait)).request.request_id for a in addresses]
    ready = {"InProgress" if for_what == "a date" else "AutoSuspended"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(200)
        assert {(await moves.get(ledger, i)).status for i in ids} == ready
        said = [len(await ledger.entries(i)) for i in ids]
        for address in addresses:
            await deliver_at_home(world, address, b"Subject: later\r\n\r\n")
        for _ in range(60):
            await trio.sleep(10)
            assert {(await moves.get(ledger, i)).status for i in ids} == ready
        for i in ids:
            target = world.databases["DB2"].instances[(await ledger.get(i)).request.target_instance]
            assert len(target.items) == 2
        assert [len(await ledger.entries(i)) for i in ids] == said
        if for_what == "a date":
            world.now = date
            await trio.sleep(limits.poll_wishes_s)
        else:
            for i in ids:
                await moves.complete(ledger, i)
        await trio.sleep(limits.quiet_turn_s)
        assert {(await moves.get(ledger, i)).status for i in ids} == {"Completed"}
        service.stop()


async def test_the_limits_of_a_target_are_kept(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    at_once: list[int] = []

    async def step(name: str) -> None:
        if name == "DB2.write_items:before":
            at_once.append(len(service.progress))
            await trio.sleep(1)

    engine = world.engine(step=step, limits=attrs.evolve(SMALL, max_active_moves_per_target_mdb=2))
    service = await engine.service()
    ledger = await engine.ledger()
    for address in await people(world, 5):
        await moves.new_move(ledger, engine.directory, address, "DB2")
    await service.run(drain=True)
    assert max(at_once) <= 2
    assert {s.status for s in await moves.list_moves(ledger)} == {"Completed"}


async def test_of_many_moves_few_pages_are_under_way_and_few_mailboxes_locked(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    at_once = {"pages": 0, "locks": 0}
    most = dict(at_once)

    async def step(name: str) -> None:
        kind = "pages" if "write_items" in name else "locks"
        if name in ("DB2.write_items:before", "DB1.lock:before"):
            at_once[kind] += 1
            most[kind] = max(most[kind], at_once[kind])
            await trio.sleep(0.1)
        elif name in ("DB2.write_items:after", "DB2.open:after"):
            at_once[kind] -= 1

    limits = attrs.evolve(
        SMALL,
        max_active_moves_per_source_mdb=9,
        max_active_moves_per_target_mdb=9,
        max_active_moves_per_target_server=9,
        pages_at_once_max=3,
        cutovers_at_once_max=2,
    )
    engine = world.engine(step=step, limits=limits)
    ledger = await engine.ledger()
    for address in await people(world, 9):
        await moves.new_move(ledger, engine.directory, address, "DB2")
    await (await engine.service()).run(drain=True)
    assert most == {"pages": 3, "locks": 2}
    assert {s.status for s in await moves.list_moves(ledger)} == {"Completed"}


async def test_what_was_just_rehearsed_between_two_databases_is_not_rehearsed_for_each_mailbox(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    made = 0

    async def step(name: str) -> None:
        nonlocal made
        if name == "DB2.create:before":
            made += 1
            await trio.sleep(HOLDS_FOR_S + 1 if made == 3 else 0)

    engine = world.engine(step=step, limits=attrs.evolve(SMALL, max_total_moves_per_mrs=1))
    ledger = await engine.ledger()
    addresses = await people(world, 5)
    home = (await world.directory.locate(addresses[-1])).register.home
    await MemoryEndpoint("DB1", world.databases["DB1"]).mailbox(home.instance).create_folder("one more")
    ids = []
    for address in addresses:
        ids.append((await moves.new_move(ledger, engine.directory, address, "DB2")).request.request_id)
        world.now += 1  # the older one goes first
    await (await engine.service()).run(drain=True)
    rehearsed = [any("Rehearsing" in entry.text for entry in await ledger.entries(i)) for i in ids]
    assert rehearsed == [True, False, True, False, True], "the first; after a minute; one with more folders"
    assert {s.status for s in await moves.list_moves(ledger)} == {"Completed"}


async def test_who_waits_to_lock_still_hears_the_operator(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    locks = 0

    async def step(name: str) -> None:
        nonlocal locks
        if name == "DB1.lock:before":
            locks += 1
            await trio.sleep(0.1)  # the others come as far as they get
            for standing in await ledger.find(statuses=[Status.IN_PROGRESS]):
                await moves.suspend(ledger, standing.request.request_id)
            await trio.sleep(0.2)

    limits = attrs.evolve(SMALL, max_active_moves_per_target_mdb=9, cutovers_at_once_max=1)
    engine = world.engine(step=step, limits=limits)
    ledger = await engine.ledger()
    for address in await people(world, 3):
        await moves.new_move(ledger, engine.directory, address, "DB2")
    await (await engine.service()).run(drain=True)
    assert locks == 1
    assert sorted(s.status for s in await moves.list_moves(ledger)) == ["Completed", "Suspended", "Suspended"]


async def test_a_worker_does_not_look_for_work_at_each_write_of_its_own(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    await fill(world, items=40)
    looks = writes = 0

    async def step(name: str) -> None:
        nonlocal writes
        if name == "ledger.write:after":
            writes += 1
            await trio.sleep(1)

    engine = world.engine(step=step)
    ledger = await engine.ledger()
    await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")
    changes = ledger.changes

    async def counted(since: int = 0) -> Changes:
        nonlocal looks
        looks += 1
        return await changes(since)

    ledger.changes = counted  # type: ignore[method-assign]
    await (await engine.service()).run(drain=True)
    assert writes > 20
    assert looks <= 3, "at the start, and when its place was free"


async def test_of_many_that_wait_a_worker_reads_what_has_changed(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, a place that comes free costs the same. Who was asked to wait, or to go, is heard."""
    world = await World.make(tmp_path)
    asked: list[RequestId] = []
    told: list[int] = []

    async def step(name: str) -> None:
        if name == "DB2.write_items:before" and len(asked) == 40:
            await moves.suspend(ledger, asked.pop())
            await moves.remove(ledger, asked.pop())

    engine = world.engine(step=step, limits=attrs.evolve(SMALL, max_active_moves_per_target_mdb=1))
    ledger = await engine.ledger()
    queued = [await moves.new_move(ledger, engine.directory, address, "DB2") for address in await people(world, 40)]
    asked += [standing.request.request_id for standing in queued]
    changes = ledger.changes

    async def counted(since: int = 0) -> Changes:
        found = await changes(since)
        told.append(len(found.due) + len(found.over))
        return found

    monkeypatch.setattr(ledger, "changes", counted)
    monkeypatch.setattr("moverq.ledger.ledger.CHANGES_MAX", 16)
    await (await engine.service()).run(drain=True)
    assert Counter(s.status for s in await moves.list_moves(ledger)) == {"Completed": 38, "Suspended": 1}
    assert told[:3] == [16, 16, 8]
    assert len(told) > 38
    assert max(told[3:]) <= 4


async def test_a_running_worker_hears_of_new_requests_and_wishes_and_stops(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    engine = world.engine()
    ledger = await engine.ledger()
    service = await engine.service()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(5)
        asked = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", suspend_when_ready_to_complete=True)
        request_id = asked.request.request_id
        await trio.sleep(5)
        assert (await moves.get(ledger, request_id)).status == "AutoSuspended"
        await moves.complete(ledger, request_id)
        await trio.sleep(5)
        assert (await moves.get(ledger, request_id)).status == "Completed"
        back = (await moves.rollback(ledger, engine.directory, request_id)).request.request_id
        await trio.sleep(5)
        assert (await moves.get(ledger, back)).status == "Completed"
        service.stop()
    assert (await world.recipient()).register.home.database == "DB1"
    await world.check_safe(at_rest=True)


async def test_a_word_that_is_said_between_the_last_write_and_the_soak_is_heard(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    await fill(world)

    async def step(name: str) -> None:
        standing = await ledger.get(request_id) if name == "directory.set_move:before" else None
        if standing is not None and standing.stage is SyncStage.SOAK and not standing.wishes.finish:
            await moves.complete(ledger, request_id)
            await trio.sleep(1)  # the worker looks, and tells its job

    engine = world.engine(step=step)
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    service = await engine.service()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(10)
        service.stop()
    assert (await ledger.get(request_id)).stage is SyncStage.SYNC_FINISHED


async def test_the_purge_comes_by_itself_when_its_date_does(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    engine = world.engine()
    ledger = await engine.ledger()
    service = await engine.service()
    await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", soak_s=0.0, retention_s=3600.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(5)
        assert len(world.instances()) == 2
        world.now += 3_600_000
        await trio.sleep(120)
        service.stop()
    assert len(world.instances()) == 1
    await world.check_safe(at_rest=True)


async def test_a_move_another_worker_has_is_left_alone(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    engine = world.engine()
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    held = FileLock(ledger.lock_path(request_id))
    assert held.try_acquire()
    await (await engine.service()).run(drain=True)
    assert (await moves.get(ledger, request_id)).status == "Queued"
    held.release()
    await (await engine.service()).run(drain=True)
    assert (await moves.get(ledger, request_id)).status == "Completed"


@pytest.mark.parametrize("at", ["DB2.claim:before", "DB2.purge:before", "DB2.remove:before"])
@pytest.mark.parametrize(
    "error", [EndpointUnavailable, EndpointBroken, lambda endpoint, why: RequestRefused(why=f"{endpoint}: {why}")]
)
async def test_what_an_operator_wants_and_cannot_be_done_now_is_tried_now_and_then(
    tmp_path: Path, autojump_clock: object, at: str, error: Callable[..., MoveError]
) -> None:
    """A wish stays until it is met: a worker that takes it for news each time would try without a pause."""
    world = await World.make(tmp_path)
    await fill(world)
    refusing = True

    async def step(name: str) -> None:
        if refusing and name == at:
            raise error(endpoint="DB2", why="not now")

    engine = world.engine(step=step)
    ledger = await engine.ledger()
    service = await engine.service()
    standing = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", suspend_when_ready_to_complete=True)
    request_id = standing.request.request_id
    refusing = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(60)
        refusing = True
        before = (await ledger.get(request_id)).token
        await moves.remove(ledger, request_id)
        await trio.sleep(30)
        tries = (await ledger.get(request_id)).token - before
        assert 2 <= tries <= 3 * 30 / SMALL.retry_delay_s
        refusing = False
        await trio.sleep(2 * SMALL.retry_delay_max_s)
        with pytest.raises(NotFound):
            await ledger.get(request_id)
        service.stop()
    await world.check_safe(at_rest=True)


async def test_a_clock_that_falls_back_does_not_keep_what_never_was_a_home(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    await fill(world)

    async def step(name: str) -> None:
        if name == "DB2.remove:after":
            world.now -= 3 * 3_600_000

    engine = world.engine(step=step)
    ledger = await engine.ledger()
    standing = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", suspend_when_ready_to_complete=True)
    await (await engine.service()).run(drain=True)
    await moves.remove(ledger, standing.request.request_id)
    await (await engine.service()).run(drain=True)
    assert not world.databases["DB2"].instances
    assert not await moves.list_moves(ledger)


AWAY = EndpointUnavailable(endpoint="directory", why="no answer")
BUSY = EndpointBusy(endpoint="ledger", retry_after_s=1.0)
FULL = EndpointBroken(endpoint="ledger", why="the disk is full")


@pytest.mark.parametrize(
    ("of", "verb", "error"),
    [("directory", "databases", AWAY), ("ledger", "changes", BUSY), ("ledger", "wait_asked", FULL)],
)
async def test_a_worker_outlives_what_its_intake_meets_and_says_it_once(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch, of: str, verb: str, error: MoveError
) -> None:
    """The move that is under way goes on meanwhile; what is asked for meanwhile begins afterwards."""
    world = await World.make(tmp_path)
    engine = world.engine()
    ledger = await engine.ledger()
    first, second = await people(world, 2)
    service = await engine.service()
    waits = await moves.new_move(ledger, engine.directory, first, "DB2", suspend_when_ready_to_complete=True)
    asked = engine.directory if of == "directory" else ledger
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(5)
        assert (await ledger.get(waits.request.request_id)).status.value == "AutoSuspended"

        async def refuse(*_: object) -> object:
            await trio.lowlevel.checkpoint()
            raise error

        with structlog.testing.capture_logs() as said:
            with monkeypatch.context() as patches:
                patches.setattr(asked, verb, refuse)
                late = await moves.new_move(ledger, _without(engine.directory, verb), second, "DB3")
                await trio.sleep(600)
                is_at_work = late.request.request_id in service.progress
                assert is_at_work == (verb == "wait_asked"), "only a whole look starts something"
                assert waits.request.request_id in service.progress
            await trio.sleep(60)
            assert (await ledger.get(late.request.request_id)).status.value == "Completed"
        service.stop()
    events = [(one["log_level"], one.get("why")) for one in said]
    assert events == [("warning", str(error)), ("info", None)]


def _without(directory: object, verb: str) -> Any:
    """An administrator's own way to the directory: what a worker meets is not met by him."""
    found = copy.copy(directory)
    found.__dict__.pop(verb, None)
    return found


async def test_a_worker_whose_ledger_cannot_be_written_says_so_and_goes_on_when_it_is_cured(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    full = False

    async def step(name: str) -> None:
        await trio.lowlevel.checkpoint()
        if full and name == "ledger.write:before":
            raise FULL

    engine = world.engine(step=step)
    ledger = await engine.ledger()
    service = await engine.service()
    asked = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", soak_s=DAY_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        with structlog.testing.capture_logs() as said:
            full = True
            await trio.sleep(600)
            full = False
            await trio.sleep(60)
            assert (await ledger.get(asked.request.request_id)).message == str(FULL)
            await moves.resume(ledger, asked.request.request_id)
            await trio.sleep(60)
        service.stop()
    assert (await ledger.get(asked.request.request_id)).status.value == "Completed"
    assert [(one["request"], one["ledger"]) for one in said] == [(asked.request.request_id, str(FULL))]
    await world.check_safe(at_rest=True)


async def test_a_look_that_took_long_does_not_make_the_worker_deaf(
    tmp_path: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped in it, say. What is asked for afterwards begins in seconds."""
    world = await World.make(tmp_path)
    await fill(world)
    engine = world.engine()
    ledger = await engine.ledger()
    service = await engine.service()
    databases = engine.directory.databases

    async def slow() -> object:
        await trio.sleep(100)
        return await databases()

    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as patches:
            patches.setattr(engine.directory, "databases", slow)
            nursery.start_soon(service.run)
            await trio.sleep(1)
        await trio.sleep(150)
        asked = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")
        await trio.sleep(10)
        assert (await ledger.get(asked.request.request_id)).status.value == "Completed"
        service.stop()
