"""The worker: many requests, its limits, stopping, and operators who speak while it runs."""

from pathlib import Path

import attrs
import trio

from moverq import moves
from moverq.endpoints.base import Home
from moverq.endpoints.memory import MemoryEndpoint
from moverq.flow.file_lock import FileLock
from moverq.model.ids import MailboxId
from tests.support.move_world import ADDRESS, SMALL, World, fill


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


async def test_draining_moves_everybody_and_ends(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    engine = world.engine()
    ledger = await engine.ledger()
    for n, address in enumerate(await people(world, 7)):
        await moves.new_move(ledger, engine.directory, address, "DB2" if n % 2 else "DB3", batch_name="all")
    await (await engine.service()).run(drain=True)
    assert {s.status for s in await moves.list_moves(ledger, batch_name="all")} == {"Completed"}
    await engine.close()


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
