"""A move from its request to its end, on memory endpoints and a real ledger file."""

from pathlib import Path

from moverq import moves
from moverq.endpoints.base import GuardMode
from tests.support.move_world import ADDRESS, World, fill


async def test_a_move_copies_follows_locks_and_switches(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    engine = world.engine()
    ledger = await engine.ledger()
    request = (await moves.new_move(ledger, world.directory, ADDRESS, "DB2")).request
    await (await engine.job(request.request_id)).run()
    stats = await moves.get(ledger, request.request_id)
    print((await moves.report(ledger, request.request_id)).to_text())
    assert stats.status == "Completed", stats.message
    assert (await world.recipient()).register.home.database == "DB2"
    assert stats.digest_source == stats.digest_target == stats.digest_ledger
    await world.check_safe(at_rest=True)
    source = world.databases["DB1"].instance(request.source.instance)
    assert source.guard.mode is GuardMode.RETIRED
    await engine.close()
