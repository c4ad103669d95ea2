"""What a job does with a move, from its request to its end: on memory endpoints and a real ledger file."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from moverq import moves
from moverq.endpoints.base import FenceClass, GuardMode, Home
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable, MailboxLocked, RequestRefused
from moverq.ledger.ledger import Ledger
from moverq.model.facts import SeedWatermark
from moverq.model.ids import InstanceId, RequestId, new_id
from moverq.model.report import EntryKind, MoveReport
from moverq.model.statistics import MoveStatistics
from moverq.phases import clean_up, finalize
from moverq.phases.tenure import Tenure
from tests.support.move_world import ADA, ADDRESS, Engine, World, fill

DAY_MS = 86_400_000


@attrs.define(eq=False)
class Desk:
    """A world with a filled mailbox, an engine, and the verbs of an operator."""

    world: World
    engine: Engine

    async def ask(self, **options: object) -> RequestId:
        ledger = await self.engine.ledger()
        standing = await moves.new_move(ledger, self.engine.directory, ADDRESS, "DB2", **options)  # type: ignore[arg-type]
        return standing.request.request_id

    async def run(self, request_id: RequestId, *, drain: bool = True) -> MoveStatistics:
        await (await self.engine.job(request_id, drain=drain)).run()
        return await self.stats(request_id)

    async def stats(self, request_id: RequestId) -> MoveStatistics:
        return await moves.get(await self.engine.ledger(), request_id)

    async def report(self, request_id: RequestId) -> MoveReport:
        return await moves.report(await self.engine.ledger(), request_id)


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    world = await World.make(tmp_path)
    await fill(world)
    return Desk(world, world.engine())


async def test_a_move_copies_follows_locks_and_switches(desk: Desk) -> None:
    request_id = await desk.ask()
    stats = await desk.run(request_id)
    assert (stats.status, stats.sync_stage, stats.percent_complete) == ("Completed", "Soak", 100)
    assert stats.digest_source == stats.digest_target == stats.digest_ledger
    assert (stats.items_transferred, stats.lock_attempts) == (10, 1)
    recipient = await desk.world.recipient()
    assert (recipient.register.home.database, recipient.register.epoch) == ("DB2", 2)
    assert (recipient.move.status, recipient.active_move) == ("Completed", request_id)
    await desk.world.check_safe(at_rest=True)


async def test_the_report_tells_every_stage_and_the_lock_in_its_parts(desk: Desk) -> None:
    request_id = await desk.ask()
    await desk.run(request_id)
    report = await desk.report(request_id)
    stages = [entry.data["sync_stage"] for entry in report.of(EntryKind.STAGE)]
    assert stages == [
        "Preflight", "CreatingMailbox", "CreatingInitialSyncCheckpoint", "CreatingFolderHierarchy", "LoadingMessages",
        "CopyingMessages", "IncrementalSync", "FinalIncrementalSync", "Cleanup",
    ]  # fmt: skip
    (attempt,) = report.of(EntryKind.LOCK_ATTEMPT)
    assert list(attempt.data["phases_ms"]) == [
        "lock", "drain", "folders", "verify", "intent", "register", "note", "retire", "open",
    ]  # fmt: skip
    as_json = report.to_json()["report"]
    assert as_json["versions"]["online"] is True
    assert as_json["capabilities"]["fence_class"] == "A"
    assert "Digests agree" in report.to_text()


async def test_a_move_that_is_to_wait_waits_following_and_completes_when_told(desk: Desk) -> None:
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    stats = await desk.run(request_id)
    assert (stats.status, stats.status_detail, stats.percent_complete) == ("AutoSuspended", "AutoSuspended", 95)
    await (await desk.world.mailbox()).deliver(b"Subject: later\r\n\r\n")
    await desk.world.acknowledge()
    stats = await desk.run(request_id)
    assert (stats.status, stats.backlog) == ("AutoSuspended", 0)
    await moves.complete(await desk.engine.ledger(), request_id)
    assert (await desk.run(request_id)).status == "Completed"
    await desk.world.check_safe(at_rest=True)


async def test_a_move_with_a_date_completes_when_it_comes(desk: Desk) -> None:
    request_id = await desk.ask(complete_after_ms=desk.world.now + 3_600_000)
    stats = await desk.run(request_id)
    assert (stats.status, stats.message) == ("InProgress", "ready to complete; waits for its date")
    desk.world.now += 3_600_000
    assert (await desk.run(request_id)).status == "Completed"


async def test_a_waiting_job_follows_what_comes_and_hears_the_operator(desk: Desk, autojump_clock: object) -> None:
    request_id = await desk.ask(suspend_when_ready_to_complete=True, soak_s=0.0)
    ledger = await desk.engine.ledger()
    job = await desk.engine.job(request_id, drain=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.run)
        await trio.sleep(60)
        assert job.quiet_since is not None
        await (await desk.world.mailbox()).deliver(b"Subject: later\r\n\r\n")
        await trio.sleep(1)
        assert job.quiet_since is not None
        assert desk.engine.progress[-1].backlog == 0
        await moves.complete(ledger, request_id)
        job.bell.ring()
    assert (await desk.stats(request_id)).sync_stage == "SyncFinished"


async def test_suspend_leaves_the_mailbox_in_use_and_resume_goes_on(desk: Desk) -> None:
    request_id = await desk.ask()
    ledger = await desk.engine.ledger()
    await moves.suspend(ledger, request_id)
    assert (await desk.run(request_id)).status == "Suspended"
    await desk.world.check_safe(at_rest=True)
    await moves.resume(ledger, request_id)
    assert (await desk.run(request_id)).status == "Completed"
    with pytest.raises(RequestRefused, match="is Completed already"):
        await moves.suspend(ledger, request_id)


async def test_a_bad_item_stops_the_move_until_the_limit_allows_it(desk: Desk) -> None:
    instance = next(iter(desk.world.databases["DB1"].instances.values()))
    bad = sorted(instance.items)[2]
    instance.unreadable[bad] = "the disk says no"
    request_id = await desk.ask()
    stats = await desk.run(request_id)
    assert (stats.status, stats.status_detail, stats.bad_items_encountered) == ("Failed", "FailedBadItemLimit", 1)
    assert "1 bad item, and the request allows 0" in stats.message
    await moves.resume(await desk.engine.ledger(), request_id, bad_item_limit=1)
    desk.world.acked = None  # one item is given up, with the operator's consent
    stats = await desk.run(request_id)
    assert (stats.status, stats.bad_items_encountered) == ("CompletedWithWarning", 1)
    assert stats.digest_target == stats.digest_ledger != stats.digest_source
    (entry, *_) = (await desk.report(request_id)).of(EntryKind.BAD_ITEM)
    assert entry.data["item_id"] == bad.hex()


async def test_a_bad_item_that_is_repaired_comes_along(desk: Desk) -> None:
    instance = next(iter(desk.world.databases["DB1"].instances.values()))
    bad = sorted(instance.items)[2]
    instance.unreadable[bad] = "the disk says no"
    request_id = await desk.ask()
    assert (await desk.run(request_id)).status == "Failed"
    del instance.unreadable[bad]
    stats = await desk.run(request_id)
    assert (stats.status, stats.bad_items_encountered) == ("Completed", 0)
    await desk.world.check_safe(at_rest=True)


async def test_an_item_the_target_refuses_lies_in_quarantine(desk: Desk) -> None:
    desk.world.databases["DB2"].item_bytes_max = 250
    request_id = await desk.ask(bad_item_limit=5)
    desk.world.acked = None
    stats = await desk.run(request_id)
    assert stats.status == "CompletedWithWarning"
    bad = (await desk.report(request_id)).of(EntryKind.BAD_ITEM)
    assert {entry.data["bad_item_kind"] for entry in bad} == {"LargeItem"}
    kept = [await trio.Path(entry.data["quarantine"]).read_bytes() for entry in bad]
    assert all(len(raw) > 250 for raw in kept)


async def test_a_trimmed_feed_is_compared_anew_and_nothing_dead_stays(desk: Desk) -> None:
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    await desk.run(request_id)
    mailbox = await desk.world.mailbox()
    instance = next(iter(desk.world.databases["DB1"].instances.values()))
    dead = sorted(instance.items)[1]
    await mailbox.delete_item(dead, purge=True)
    await mailbox.deliver(b"Subject: new\r\n\r\n")
    await desk.world.acknowledge()
    instance.trim(instance.head)
    ledger = await desk.engine.ledger()
    await moves.complete(ledger, request_id)
    stats = await desk.run(request_id)
    assert stats.status == "Completed", stats.message
    await desk.world.check_safe(at_rest=True)
    assert dead not in (await desk.world.at_home()).items
    failures = (await desk.report(request_id)).of(EntryKind.FAILURE)
    assert [entry.data["failure_type"] for entry in failures] == ["FeedTrimmed"]


async def test_a_difference_that_nobody_explains_is_repaired_by_comparing_anew(desk: Desk) -> None:
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    await desk.run(request_id)
    lose_an_item(desk)
    await moves.complete(await desk.engine.ledger(), request_id)
    stats = await desk.run(request_id)
    assert stats.status == "Completed", stats.message
    await desk.world.check_safe(at_rest=True)


def lose_an_item(desk: Desk) -> None:
    """The target forgets one, and its sums with it."""
    target = next(iter(desk.world.databases["DB2"].instances.values()))
    lost = sorted(target.items)[0]
    before = target.items.pop(lost)
    target.contents.pop(lost)
    target.digests[before.folder_id] = target.digests[before.folder_id].minus(before)


async def test_a_difference_that_comes_back_fails_the_move_and_each_resume_compares_anew(desk: Desk) -> None:
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    ledger = await desk.engine.ledger()
    await desk.run(request_id)
    lose_an_item(desk)
    assert (await desk.run(request_id)).status == "AutoSuspended"
    for listing in (2, 3):
        lose_an_item(desk)
        stats = await desk.run(request_id) if listing == 2 else await resumed(desk, request_id, lose_again=True)
        assert (stats.status, stats.message[:31]) == ("Failed", "verification found differences:")
        assert (await ledger.facts(request_id)).need(SeedWatermark).generation == listing
        assert "compares both sides anew" in (await moves.explain(ledger, request_id)).what_next
        await desk.world.check_safe(at_rest=True)
    assert (await resumed(desk, request_id)).status == "AutoSuspended"
    await moves.complete(ledger, request_id)
    assert (await desk.run(request_id)).status == "Completed"
    assert (await ledger.facts(request_id)).need(SeedWatermark).generation == 4
    await desk.world.check_safe(at_rest=True)


async def resumed(desk: Desk, request_id: RequestId, *, lose_again: bool = False) -> MoveStatistics:
    await moves.resume(await desk.engine.ledger(), request_id)
    stats = await desk.run(request_id)
    if lose_again:
        lose_an_item(desk)
        stats = await desk.run(request_id)
    return stats


async def test_past_its_budget_the_source_is_given_back_and_the_move_follows_on(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    slow = 2  # attempts in which the drain takes longer than the budget

    async def step(name: str) -> None:
        nonlocal slow
        source = next(iter(world.databases["DB1"].instances.values()))
        if name == "DB2.apply_changes:before" and source.guard.mode is GuardMode.LOCKED and slow:
            slow -= 1
            with pytest.raises(MailboxLocked):
                await (await world.mailbox()).deliver(b"now?")
            await trio.sleep(5)

    desk = Desk(world, world.engine(step=step))
    request_id = await desk.ask()
    stats = await desk.run(request_id)
    assert (stats.status, stats.lock_attempts) == ("Completed", 3)
    outcomes = [e.data["outcome"] for e in (await desk.report(request_id)).of(EntryKind.LOCK_ATTEMPT)]
    assert outcomes[0].startswith("the budget of 1000 ms was spent")
    assert outcomes[0].endswith("was given back")
    assert outcomes[2] == "committed"
    assert stats.lock_ms is not None
    assert stats.lock_ms <= 1000


async def test_an_item_that_breaks_after_it_was_carried_is_not_lost(desk: Desk) -> None:
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    await desk.run(request_id)
    instance = next(iter(desk.world.databases["DB1"].instances.values()))
    instance.unreadable[sorted(instance.items)[0]] = "gone bad since"
    await (await desk.world.mailbox()).deliver(b"Subject: one more\r\n\r\n")
    instance.trim(instance.head)
    await desk.world.acknowledge()
    await moves.complete(await desk.engine.ledger(), request_id)
    stats = await desk.run(request_id)
    assert (stats.status, stats.bad_items_encountered) == ("Completed", 0)
    await desk.world.check_safe(at_rest=True)


async def test_a_lost_answer_of_the_commit_is_read_from_the_register(desk: Desk) -> None:
    request_id = await desk.ask()
    desk.engine.directory.lose_answer("relocate")
    stats = await desk.run(request_id)
    assert (stats.status, stats.lock_attempts, stats.epoch) == ("Completed", 1, 2)


async def test_a_mailbox_that_changes_faster_than_it_is_followed_is_said_so(
    tmp_path: Path, autojump_clock: object
) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    busy = True

    async def step(name: str) -> None:
        if busy and name == "DB2.apply_changes:after" and world.databases["DB2"].instances:
            await trio.sleep(1)
            for n in range(8):
                await (await world.mailbox()).deliver(f"Subject: busy {n}\r\n\r\n".encode())

    desk = Desk(world, world.engine(step=step, limits=attrs.evolve(world.engine().limits, feed_changes_max=100)))
    request_id = await desk.ask()
    with trio.fail_after(10_000):
        stats = await desk.run(request_id)
    assert stats.status == "Failed"
    assert "the mailbox changes at" in stats.message
    busy = False
    assert (await desk.run(request_id)).status == "Completed"


async def test_an_offline_move_locks_first_and_a_suspended_one_unlocks(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path, version="2003")
    await fill(world)
    asked: list[str] = []

    async def step(name: str) -> None:
        if name.startswith("DB2.write_items"):
            asked.append(next(iter(world.databases["DB1"].instances.values())).guard.mode.value)

    desk = Desk(world, world.engine(step=step))
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    stats = await desk.run(request_id)
    assert stats.is_offline
    assert set(asked) == {"locked"}
    await moves.suspend(await desk.engine.ledger(), request_id)
    assert (await desk.run(request_id)).status == "Suspended"
    await world.check_safe(at_rest=True)
    await (await world.mailbox()).deliver(b"Subject: between\r\n\r\n")
    await world.acknowledge()
    await moves.resume(await desk.engine.ledger(), request_id)
    await moves.complete(await desk.engine.ledger(), request_id)
    assert (await desk.run(request_id)).status == "Completed"
    await world.check_safe(at_rest=True)


async def test_a_mailbox_over_its_quota_is_refused_before_anything_is_made(desk: Desk) -> None:
    recipient = await desk.world.recipient()
    desk.engine.directory._recipients[recipient.mailbox_id] = attrs.evolve(recipient, quota_bytes=10)
    request_id = await desk.ask()
    stats = await desk.run(request_id)
    assert stats.status == "Failed"
    assert "its quota is 10" in stats.message
    assert desk.world.databases["DB2"].instances == {}


async def test_a_rollback_takes_the_mailbox_back_with_what_came_since(desk: Desk) -> None:
    ledger = await desk.engine.ledger()
    request_id = await desk.ask()
    await desk.run(request_id)
    await (await desk.world.mailbox()).deliver(b"Subject: at the new home\r\n\r\n")
    await desk.world.acknowledge()
    back = (await moves.rollback(ledger, desk.engine.directory, request_id)).request.request_id
    assert (await desk.run(request_id)).message.startswith("taken back by")
    stats = await desk.run(back)
    assert (stats.status, stats.parent) == ("Completed", request_id)
    assert stats.items_transferred == 1, "the reverse feed had carried the rest"
    recipient = await desk.world.recipient()
    assert (recipient.register.home.database, recipient.register.epoch) == ("DB1", 3)
    await desk.world.check_safe(at_rest=True)
    with pytest.raises(RequestRefused, match="taking this move back already"):
        await moves.rollback(ledger, desk.engine.directory, request_id, idempotency_key="another")


async def test_the_directory_shows_how_the_move_stands_also_after_a_crash_between_the_two(desk: Desk) -> None:
    """The ledger is written first, and the next tenure begins in the soak."""
    request_id = await desk.ask()
    await desk.run(request_id)
    recipient = await desk.world.recipient()
    assert recipient.move.status == "Completed"
    before = attrs.evolve(recipient.move, status="CompletionInProgress")
    await desk.engine.directory.set_move(recipient.mailbox_id, before)
    await desk.run(request_id)
    assert (await desk.world.recipient()).move.status == "Completed"


async def test_trouble_in_the_soak_is_told_as_long_as_it_lasts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise EndpointUnavailable(endpoint="DB1", why="it is being restarted")

    request_id = await desk.ask()
    said = (await desk.run(request_id)).message
    with monkeypatch.context() as patched:
        patched.setattr("moverq.phases.soak._carry_back", away)
        assert "it is being restarted" in (await desk.run(request_id)).message
        assert "it is being restarted" in (await moves.explain(await desk.engine.ledger(), request_id)).why
    assert (await desk.run(request_id)).message == said
    assert "restarted" not in (await moves.explain(await desk.engine.ledger(), request_id)).why


@pytest.mark.parametrize("way_back", ["short", "trimmed"])
async def test_a_rollback_finds_what_the_move_left_behind_and_leaves_it_there(desk: Desk, way_back: str) -> None:
    """And once more there and back: they are bad items of each move away, and of none home."""
    desk.world.databases["DB2"].item_bytes_max = 250
    source = next(iter(desk.world.databases["DB1"].instances.values()))
    ledger, before = await desk.engine.ledger(), set(source.items)
    desk.world.acked = None
    request_id = await desk.ask(bad_item_limit=50)
    assert (left := (await desk.run(request_id)).bad_items_encountered) > 0
    for _ in range(2):
        if way_back == "trimmed":
            target = desk.world.databases["DB2"].instances[(await ledger.get(request_id)).request.target_instance]
            target.trim(target.head)
        await (await desk.world.mailbox()).deliver(b"Subject: at the new home\r\n\r\n")
        await desk.run(request_id)
        back = (await moves.rollback(ledger, desk.engine.directory, request_id)).request.request_id
        await desk.run(request_id)
        stats = await desk.run(back)
        assert (stats.status, stats.bad_items_encountered) == ("Completed", 0), stats.message
        assert before < set(source.items)
        before = set(source.items)
        request_id = (await moves.rollback(ledger, desk.engine.directory, back)).request.request_id
        await desk.run(back)
        assert (await desk.run(request_id)).bad_items_encountered == left


async def test_what_was_left_behind_goes_with_its_folder_where_the_user_has_removed_it(desk: Desk) -> None:
    desk.world.databases["DB2"].item_bytes_max = 250
    source = next(iter(desk.world.databases["DB1"].instances.values()))
    ledger = await desk.engine.ledger()
    desk.world.acked = None
    request_id = await desk.ask(bad_item_limit=50)
    await desk.run(request_id)
    mailbox = await desk.world.mailbox()
    target = next(iter(desk.world.databases["DB2"].instances.values()))
    lost = {state.folder_id for item_id, state in source.items.items() if item_id not in target.items}
    parents = {folder.parent_id for folder in source.folders.values()}
    folder_id = min(lost - parents - {mailbox.inbox})
    await mailbox.delete_folder(folder_id)
    await desk.run(request_id)
    back = (await moves.rollback(ledger, desk.engine.directory, request_id)).request.request_id
    await desk.run(request_id)
    assert (await desk.run(back)).status == "Completed"
    assert folder_id not in source.folders
    assert any("were in folders that have been removed" in e.text for e in (await desk.report(back)).entries)


async def test_who_gets_past_a_weak_lock_after_the_drain_is_carried_in_the_same_attempt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.world.databases["DB1"].fence = FenceClass.D
    late: list[object] = []
    drain = finalize.drain

    async def drained(*which: Any, **how: Any) -> int:
        applied = await drain(*which, **how)
        if len(late) < 2:
            source = next(iter(desk.world.databases["DB1"].instances.values()))
            locked = source.guard
            source.guard = attrs.evolve(locked, mode=GuardMode.OPEN)
            late.append(source.deliver(b"Subject: late\r\n\r\n%d" % len(late)))
            source.guard = locked
        return applied

    monkeypatch.setattr(finalize, "drain", drained)
    stats = await desk.run(await desk.ask())
    assert (stats.status, stats.lock_attempts) == ("Completed", 1)
    target = next(iter(desk.world.databases["DB2"].instances.values()))
    assert set(late) <= target.items.keys()


async def test_stragglers_are_named_once_and_a_trimmed_feed_of_the_old_home_does_not_hold_up_the_soak(
    desk: Desk,
) -> None:
    desk.world.databases["DB1"].fence = FenceClass.D
    request_id = await desk.ask()
    await desk.run(request_id)
    source = next(iter(desk.world.databases["DB1"].instances.values()))
    late = []
    for trimmed in (False, False, True):
        retired = source.guard
        source.guard = attrs.evolve(retired, mode=GuardMode.OPEN)
        late.append(source.deliver(b"Subject: late\r\n\r\n"))
        source.guard = retired
        if trimmed:
            source.trim(source.head)
        for _ in range(2):
            await desk.run(request_id)
    report = await desk.report(request_id)
    named = [entry.data["item_id"] for entry in report.of(EntryKind.STRAGGLER)]
    assert named == [item_id.hex() for item_id in late[:2] if item_id is not None]
    assert [entry.text[:57] for entry in report.of(EntryKind.WARNING)] == [
        "What came to the source after the lock cannot be told any"
    ]
    await moves.complete(await desk.engine.ledger(), request_id)
    assert (await desk.run(request_id)).sync_stage == "SyncFinished"


@pytest.mark.parametrize("in_use", [False, True], ids=["at rest", "in use"])
async def test_a_folder_that_stays_busy_fails_the_move_whatever_else_gets_on(
    in_use: bool, tmp_path: Path, autojump_clock: object
) -> None:
    """A mailbox that is in use has something new at each try, so its tries are never too many in a row."""
    world = await World.make(tmp_path)
    await fill(world)
    busy, tries = True, 0

    async def step(name: str) -> None:
        nonlocal tries
        if busy and name == "DB1.lock:before":
            tries += 1
            if in_use:
                await (await world.mailbox()).deliver(b"Subject: %d\r\n\r\n" % tries)
                await world.acknowledge()
            part = "open the folder 'Sent'"
            raise EndpointBusy(endpoint="DB1", retry_after_s=1.0, why=f"{part}: [INUSE] {tries}", part=part)

    limits = attrs.evolve(world.engine().limits, busy_part_s=60.0, max_retries=1000 if not in_use else 8)
    desk = Desk(world, world.engine(step=step, limits=limits))
    request_id = await desk.ask()
    stats = await desk.run(request_id)
    assert stats.status == "Failed"
    assert "open the folder 'Sent': [INUSE]" in stats.message
    assert stats.message.endswith("it has been so for 1 min, so waiting will not mend it")
    assert tries > 8
    busy = False
    await moves.resume(await desk.engine.ledger(), request_id)
    assert (await desk.run(request_id)).status == "Completed"
    await world.check_safe(at_rest=True)


async def test_trouble_with_the_way_back_never_fails_a_completed_move(tmp_path: Path, autojump_clock: object) -> None:
    world = await World.make(tmp_path)
    await fill(world)
    away = True

    async def step(name: str) -> None:
        if away and name.startswith("DB1.apply_changes"):
            raise EndpointUnavailable(endpoint="DB1", why="its server is down")

    desk = Desk(world, world.engine(step=step))
    request_id = await desk.ask()
    assert (await desk.run(request_id)).status == "Completed"
    await (await world.mailbox()).deliver(b"Subject: meanwhile\r\n\r\n")
    await world.acknowledge()
    stats = await desk.run(request_id)
    assert (stats.status, stats.message) == ("Completed", "DB1 cannot be reached: its server is down")
    away = False
    await desk.run(request_id)
    old = next(iter(world.databases["DB1"].instances.values()))
    assert b"Subject: meanwhile\r\n\r\n" in old.contents.values()
    await world.check_safe(at_rest=True)


async def test_an_old_home_that_breaks_never_fails_a_completed_move(tmp_path: Path, autojump_clock: object) -> None:
    """Not even where it breaks before the tenure has begun: a request that was Failed after its commit stayed so."""
    world = await World.make(tmp_path)
    await fill(world)
    broken = False

    async def step(name: str) -> None:
        if broken and name == "DB1.claim:before":
            raise EndpointBroken(endpoint="DB1", why="its disk reports an error")

    desk = Desk(world, world.engine(step=step))
    request_id = await desk.ask()
    assert (await desk.run(request_id)).status == "Completed"
    await moves.complete(await desk.engine.ledger(), request_id)
    broken = True
    stats = await desk.run(request_id)
    assert (stats.status, stats.message) == ("Completed", "DB1: its disk reports an error")
    broken = False
    stats = await desk.run(request_id)
    assert (stats.status, stats.sync_stage) == ("Completed", "SyncFinished")


@pytest.mark.parametrize("wish", [moves.suspend, moves.remove])
async def test_a_job_that_is_overtaken_while_it_leaves_ends_quietly(
    desk: Desk, wish: Callable[[Ledger, RequestId], Awaitable[object]]
) -> None:
    """What a job raises ends the worker, and all other moves of it."""
    request_id = await desk.ask()
    ledger = await desk.engine.ledger()
    tokens = 0

    async def step(name: str) -> None:
        nonlocal tokens
        tokens += name == "take_token:after"
        if name == "take_token:after" and tokens == 2:
            await ledger.take_over(request_id, 1000)

    desk.engine.directory.before = step
    await wish(ledger, request_id)
    job = await desk.engine.job(request_id)
    await job.run()
    assert job.was_taken_over


async def test_a_job_whose_ledger_is_busy_while_nothing_can_be_settled_tries_again(
    desk: Desk, autojump_clock: object
) -> None:
    request_id = await desk.ask()
    ledger = await desk.engine.ledger()
    away = 3

    async def directory_away(name: str) -> None:
        nonlocal away
        if away and name == "take_token:before" and (await ledger.get(request_id)).token:
            away -= 1
            raise EndpointUnavailable(endpoint="directory", why="it is away")

    async def busy(name: str) -> None:
        if 0 < away < 3 and name == "ledger.write:before":
            raise EndpointBusy(endpoint="ledger", retry_after_s=1.0)

    await ledger.take_over(request_id, 0)
    desk.engine.directory.before = directory_away
    ledger.step = busy
    job = await desk.engine.job(request_id)
    async with job._turn():
        pass
    await job.run()
    assert not away
    assert (await desk.stats(request_id)).status == "Completed"


async def test_a_clock_that_falls_back_while_the_purge_is_checked_lets_the_soak_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that cannot be undone is allowed by one look at the clock, not by one before the checks."""
    world = await World.make(tmp_path)
    await fill(world)
    desk = Desk(world, world.engine())
    old = next(iter(world.databases["DB1"].instances.values()))
    request_id = await desk.ask()
    await desk.run(request_id)
    world.now += 15 * DAY_MS
    checked = clean_up._check_purge

    async def falls_back(t: Tenure) -> None:
        await checked(t)
        world.now -= 15 * DAY_MS

    with monkeypatch.context() as patched:
        patched.setattr(clean_up, "_check_purge", falls_back)
        assert (await desk.run(request_id)).sync_stage == "Soak"
    assert old.removed_until_ms is None
    world.now += 15 * DAY_MS
    assert (await desk.run(request_id)).sync_stage == "SyncFinished"
    assert old.removed_until_ms is not None


async def test_a_rollback_given_up_leaves_the_move_soaking(desk: Desk) -> None:
    ledger = await desk.engine.ledger()
    request_id = await desk.ask()
    await desk.run(request_id)
    back = (await moves.rollback(ledger, desk.engine.directory, request_id)).request.request_id
    await desk.run(request_id)
    await moves.remove(ledger, back)
    await (await desk.engine.job(back)).run()
    assert [s.request.request_id for s in await ledger.find()] == [request_id]
    await (await desk.world.mailbox()).deliver(b"Subject: goes on\r\n\r\n")
    await desk.world.acknowledge()
    assert (await desk.run(request_id)).sync_stage == "Soak"
    again = (await moves.rollback(ledger, desk.engine.directory, request_id)).request.request_id
    await desk.run(request_id)
    assert (await desk.run(again)).status == "Completed"
    await desk.world.check_safe(at_rest=True)


async def test_a_rollback_whose_record_goes_after_its_commit_leaves_the_move_taken_back(desk: Desk) -> None:
    """The first move is not revived: the register says its source, so it could never end, and would be in the way."""
    request_id = await desk.ask()
    await desk.run(request_id)
    ledger = await desk.engine.ledger()
    back = (await moves.rollback(ledger, desk.engine.directory, request_id)).request.request_id
    await desk.run(request_id)
    assert (await desk.run(back)).status == "Completed"
    await moves.remove(ledger, back, force=True)
    await (await desk.engine.job(back)).run()
    assert request_id not in [standing.request.request_id for standing in (await ledger.changes()).due]
    assert (await desk.stats(request_id)).sync_stage == "SyncFinished"
    again = await desk.ask()
    assert (await desk.run(again)).status == "Completed"
    await desk.world.check_safe(at_rest=True)


@pytest.mark.parametrize("lost", [False, True])
async def test_a_move_that_is_given_up_after_its_commit_is_completed_and_stays(
    desk: Desk, lost: bool, autojump_clock: object
) -> None:
    """Else nobody would look after its old mailbox. `lost`: the next tenure finds the commit, and the wish."""
    request_id = await desk.ask()
    ledger = await desk.engine.ledger()

    async def step(name: str) -> None:
        if name == "relocate:after":
            await moves.remove(ledger, request_id)

    desk.engine.directory.before = step
    if lost:
        desk.engine.directory.lose_answer("relocate")
    stats = await desk.run(request_id)
    assert (stats.status, stats.sync_stage) == ("Completed", "Soak")
    standing = await ledger.get(request_id)
    assert not standing.wishes.remove
    recipient = await desk.world.recipient()
    assert (recipient.active_move, recipient.move.status) == (request_id, "Completed")
    await desk.world.check_safe(at_rest=True)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_move_that_another_one_has_overtaken_can_be_removed(desk: Desk, begun: bool) -> None:
    """The mailbox is at neither of its homes: it says what to do, and that can be done. What it made goes."""
    ledger, directory = await desk.engine.ledger(), desk.engine.directory
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    if begun:
        assert (await desk.run(request_id)).status == "AutoSuspended"
    recipient = await desk.world.recipient()
    elsewhere = Home("DB3", InstanceId(new_id()))
    await directory.relocate(recipient.mailbox_id, expected=recipient.register, home=elsewhere)
    if begun:
        assert desk.world.databases["DB2"].instances
    else:
        stats = await desk.run(request_id)
        assert (stats.status, "remove the request" in stats.message) == ("Failed", True)
    await moves.remove(ledger, request_id)
    await (await desk.engine.job(request_id)).run()
    assert not await ledger.find()
    assert not desk.world.databases["DB2"].instances
    recipient = await desk.world.recipient()
    assert (recipient.register.home, recipient.active_move) == (elsewhere, None)


async def test_every_standing_can_be_explained(desk: Desk) -> None:
    ledger = await desk.engine.ledger()
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    told = [await moves.explain(ledger, request_id)]
    await desk.run(request_id)
    told.append(await moves.explain(ledger, request_id))
    await moves.complete(ledger, request_id)
    await desk.run(request_id)
    told.append(await moves.explain(ledger, request_id))
    assert [e.why.split(";")[0] for e in told] == ["it waits for a worker", "ready to complete", "it is completed"]
    assert all(e.what_a_crash_now_would_do and e.what_next and e.since_ms for e in told)


async def test_a_cancelled_job_goes_on_from_the_ledger(desk: Desk, autojump_clock: object) -> None:
    request_id = await desk.ask(suspend_when_ready_to_complete=True)
    job = await desk.engine.job(request_id, drain=False)
    with trio.move_on_after(5):
        await job.run()
    await moves.complete(await desk.engine.ledger(), request_id)
    assert (await desk.run(request_id)).status == "Completed"


async def test_a_move_that_cannot_even_begin_says_why(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory's disk is full: no token can be taken, and nothing but the ledger can tell."""
    request_id = await desk.ask()

    async def full(*_: object) -> int:
        raise EndpointBroken(endpoint="the directory", why="the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(desk.engine.directory, "take_token", full)
        stats = await desk.run(request_id)
    assert (stats.status, stats.message) == ("Failed", "the directory: the disk is full")
    await moves.resume(await desk.engine.ledger(), request_id)
    assert (await desk.run(request_id)).status == "Completed"


async def test_nothing_is_deleted_where_the_register_says_it_is_the_home(tmp_path: Path) -> None:
    """Somebody moves the register back by hand, after the job has read it: the old mailbox is in use again."""
    world = await World.make(tmp_path)
    await fill(world)
    old = next(iter(world.databases["DB1"].instances.values()))
    is_back = False

    async def step(name: str) -> None:
        nonlocal is_back
        register = (await world.recipient()).register
        if is_back and name == "DB2.claim:after" and register.epoch == 2:
            await world.directory.relocate(ADA, expected=register, home=Home("DB1", old.instance))

    desk = Desk(world, world.engine(step=step))
    request_id = await desk.ask()
    await desk.run(request_id)
    await moves.complete(await desk.engine.ledger(), request_id)
    is_back = True
    stats = await desk.run(request_id)
    assert (await world.recipient()).register.epoch == 3
    assert old.removed_until_ms is None, stats.message
