from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from moverq.endpoints.base import Home
from moverq.errors import NotFound, RequestRefused, StaleToken
from moverq.flow.offload import InThread
from moverq.flow.sqlite import bring_up, open_sqlite
from moverq.ledger.ledger import Ledger
from moverq.ledger.schema import APPLICATION_ID, LEDGER_STEPS
from moverq.model.change import Watermark
from moverq.model.facts import CleanedUp, FeedWatermark, LockIntent, PurgeAllowed, SeedCursor
from moverq.model.ids import InstanceId, MailboxId, RequestId
from moverq.model.progress import Progress
from moverq.model.report import EntryKind, ReportEntry
from moverq.model.request import MoveRequest, Priority, Status, SyncStage
from moverq.model.standing import Change
from tests.support.move_world import Inline

A = RequestId("a")


def request(request_id: str = "a", **changes: object) -> MoveRequest:
    made = MoveRequest(
        request_id=RequestId(request_id),
        idempotency_key=f"key {request_id}",
        mailbox_id=MailboxId(b"mailbox"),
        address="ada@example.org",
        source=Home("DB1", InstanceId(b"\x00source")),
        target_database="DB2",
        target_instance=InstanceId(b"\xfftarget"),
        queued_ms=1,
    )
    return attrs.evolve(made, **changes)  # type: ignore[arg-type]


@attrs.define
class Clock:
    now: int = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    opened = await Ledger.open(tmp_path, make_offload=Inline, now_ms=clock, watch=False)
    yield opened
    await opened.close()


async def test_a_request_comes_back_as_it_was_asked_for(ledger: Ledger) -> None:
    standing = await ledger.add(request())
    assert standing.request == request()
    assert (standing.status, standing.stage, standing.token) == (Status.QUEUED, SyncStage.QUEUED, 0)
    assert await ledger.get(A) == standing
    with pytest.raises(NotFound):
        await ledger.get(RequestId("none"))


async def test_the_same_key_gives_the_same_request(ledger: Ledger) -> None:
    await ledger.add(request())
    again = await ledger.add(request("b", idempotency_key="key a"))
    assert again.request.request_id == "a"
    assert len(await ledger.find()) == 1


async def test_facts_are_one_row_a_kind_and_survive_the_process(ledger: Ledger, tmp_path: Path, clock: Clock) -> None:
    await ledger.add(request())
    await ledger.take_over(A, 1)
    watermark = Watermark(b"\x00t", InstanceId(b"i"), 7)
    cursor = SeedCursor(cursor=b"\x00\xff", done=False)
    await ledger.write(A, 1, facts=(FeedWatermark(watermark=watermark), cursor, LockIntent(attempt=1, at_ms=1)))
    await ledger.write(A, 1, facts=(attrs.evolve(cursor, done=True),), forget=(LockIntent,))
    other = await Ledger.open(tmp_path, make_offload=Inline, now_ms=clock, watch=False)
    facts = await other.facts(A)
    assert facts.need(FeedWatermark).watermark == watermark
    assert facts.need(SeedCursor).done
    assert not facts.has(LockIntent)
    await other.close()


async def test_a_lower_token_changes_nothing_at_all(ledger: Ledger) -> None:
    await ledger.add(request())
    await ledger.take_over(A, 5)
    entry = ReportEntry(at_ms=1, kind=EntryKind.LINE, text="late")
    for token in (4, 6):
        with pytest.raises(StaleToken):
            await ledger.write(
                A, token, facts=(LockIntent(attempt=1, at_ms=1),), entries=(entry,), change=Change(status=Status.FAILED)
            )
        with pytest.raises(StaleToken):
            await ledger.write(A, token, facts=(LockIntent(attempt=1, at_ms=1),))
    with pytest.raises(StaleToken):
        await ledger.take_over(A, 4)
    assert (await ledger.get(A)).status is Status.QUEUED
    assert not (await ledger.facts(A)).has(LockIntent)
    assert await ledger.entries(A) == ()


async def test_time_is_accounted_by_status(ledger: Ledger, clock: Clock) -> None:
    await ledger.add(request())
    clock.now = 4000
    await ledger.write(A, 0, change=Change(status=Status.IN_PROGRESS, counters={"items_transferred": 3}))
    clock.now = 9000
    standing = await ledger.write(A, 0, change=Change(status=Status.SUSPENDED))
    assert dict(standing.counters.spent_ms) == {"Queued": 3000, "InProgress": 5000}
    assert (standing.since_ms, standing.counters.items_transferred) == (9000, 3)


async def test_wishes_and_the_orchestrators_writes_do_not_overwrite_each_other(ledger: Ledger) -> None:
    await ledger.add(request())
    await ledger.wish(A, lambda _: {"suspend": True, "complete": True})
    await ledger.amend(A, lambda s: attrs.evolve(s.request, bad_item_limit=9))
    standing = await ledger.write(A, 0, change=Change(message="at work", taken_wishes=("complete",)))
    assert (standing.wishes.suspend, standing.wishes.complete, standing.request.bad_item_limit) == (True, False, 9)


async def test_a_rollback_and_the_purge_exclude_each_other(ledger: Ledger) -> None:
    await ledger.add(request())
    back = request("b", parent=A)
    with pytest.raises(RequestRefused, match="has not been completed"):
        await ledger.add(back)
    await ledger.write(A, 0, facts=(CleanedUp(at_ms=1),))
    await ledger.add(back)
    with pytest.raises(RequestRefused, match="taking this move back"):
        await ledger.write(A, 0, facts=(PurgeAllowed(at_ms=1, keep_until_ms=2),))
    assert not (await ledger.facts(A)).has(PurgeAllowed)
    await ledger.disown(RequestId("b"), 0)
    await ledger.write(A, 0, facts=(PurgeAllowed(at_ms=1, keep_until_ms=2),))
    with pytest.raises(RequestRefused, match="soft-deleted"):
        await ledger.add(request("c", parent=A))


async def test_progress_and_report_are_read_by_others(ledger: Ledger) -> None:
    await ledger.add(request())
    progress = Progress(request_id=A, stage=SyncStage.COPYING_MESSAGES, at_ms=5, items=3, bytes_per_s=1.5)
    await ledger.publish(0, progress)
    entry = ReportEntry(at_ms=1, kind=EntryKind.WARNING, text="careful", data={"n": [1, None, "x"]})
    await ledger.write(A, 0, entries=(entry,))
    assert (await ledger.get(A)).progress == progress
    assert await ledger.entries(A) == (entry,)


async def test_listing_is_by_what_is_asked(ledger: Ledger) -> None:
    await ledger.add(request("a", batch_name="wave"))
    await ledger.add(request("b", target_database="DB9"))
    await ledger.write(A, 0, change=Change(status=Status.COMPLETED, stage=SyncStage.SYNC_FINISHED))
    assert [s.request.request_id for s in await ledger.find(batch_name="wave")] == ["a"]
    assert [s.request.request_id for s in await ledger.find(target_database="DB9")] == ["b"]
    assert [s.request.request_id for s in await ledger.find(statuses=[Status.QUEUED])] == ["b"]
    assert [s.request.request_id for s in (await ledger.changes()).due] == ["b"]


async def test_what_has_changed_of_what_a_worker_chooses_by_is_told_once(ledger: Ledger) -> None:
    """Also that a request is gone, with the number of the last change."""
    for name in ("a", "b", "c"):
        await ledger.add(request(name))
    first = await ledger.changes()
    assert [s.request.request_id for s in first.due] == ["a", "b", "c"]
    seen = first.upto

    async def told() -> tuple[list[str], list[str]]:
        nonlocal seen
        changes = await ledger.changes(seen)
        assert not changes.has_more
        seen = changes.upto
        return [s.request.request_id for s in changes.due], list(changes.over)

    assert await told() == ([], [])
    for name in ("a", "c"):
        await ledger.take_over(RequestId(name), 1)
        await ledger.write(RequestId(name), 1, change=Change(percent=50, message="half"))
    assert await told() == ([], []), "nobody chooses by a token, a percentage or a message"
    await ledger.write(A, 1, change=Change(status=Status.IN_PROGRESS))
    await ledger.wish(RequestId("b"), lambda _: {"suspend": True})
    assert await told() == (["a", "b"], [])
    await ledger.amend(A, lambda s: attrs.evolve(s.request, priority=Priority.HIGH))
    await ledger.disown(RequestId("c"), 1)
    assert await told() == (["a"], ["c"])
    await ledger.add(request("d"))
    await ledger.write(A, 1, change=Change(status=Status.FAILED))
    assert await told() == (["d"], ["a"])
    await ledger.take_over(RequestId("d"), 1)
    await ledger.wish(RequestId("d"), lambda _: {"remove": True})
    assert await told() == (["d"], [])
    await ledger.disown(RequestId("d"), 1)
    await ledger.add(request("e"))
    assert await told() == (["e"], ["d"]), "of the last change, too; and no number is given twice"
    assert await told() == ([], [])
    assert [s.request.request_id for s in (await ledger.changes()).due] == ["b", "e"]


async def test_many_changes_come_in_parts(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moverq.ledger.ledger.CHANGES_MAX", 2)
    for name in "abcde":
        await ledger.add(request(name))
    found: list[str] = []
    changes = await ledger.changes()
    while changes.has_more:
        assert len(changes.due) == 2
        found += [s.request.request_id for s in changes.due]
        changes = await ledger.changes(changes.upto)
    assert [*found, *(s.request.request_id for s in changes.due)] == list("abcde")


async def test_requests_of_a_ledger_from_before_changes_had_numbers_are_told(tmp_path: Path, clock: Clock) -> None:
    old = open_sqlite(tmp_path / "ledger.sqlite", synchronous="FULL")
    bring_up(old, kind="move ledger", application_id=APPLICATION_ID, steps=LEDGER_STEPS[:1])
    new = await Ledger.open(tmp_path / "new", make_offload=InThread, now_ms=clock)
    for name in ("a", "b"):
        await new.add(request(name))
    await new.close()
    old.execute("ATTACH ? AS new", (str(tmp_path / "new" / "ledger.sqlite"),))
    columns = ", ".join(name for (name,) in old.execute("SELECT name FROM pragma_table_info('requests')"))
    old.execute(f"INSERT INTO main.requests ({columns}) SELECT {columns} FROM new.requests")
    old.close()
    ledger = await Ledger.open(tmp_path, make_offload=InThread, now_ms=clock)
    changes = await ledger.changes()
    assert [s.request.request_id for s in changes.due] == ["a", "b"]
    await ledger.wish(A, lambda _: {"suspend": True})
    assert [s.request.request_id for s in (await ledger.changes(changes.upto)).due] == ["a"]
    await ledger.close()


async def test_another_connections_write_wakes_who_waits(tmp_path: Path, clock: Clock) -> None:
    one = await Ledger.open(tmp_path, make_offload=InThread, now_ms=clock)
    other = await Ledger.open(tmp_path, make_offload=InThread, now_ms=clock, watch=False)
    seen = one.version
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.wait_changed, seen)
            await other.add(request())
    assert len(await one.find()) == 1
    await one.close()
    await other.close()


async def test_quarantine_keeps_the_bytes(ledger: Ledger) -> None:
    path = await ledger.quarantine(A, "item.CorruptItem", b"raw")
    assert await trio.Path(path).read_bytes() == b"raw"


async def test_of_a_long_report_the_oldest_plain_lines_go_and_what_is_told_once_stays(ledger: Ledger) -> None:
    await ledger.add(request())
    await ledger.take_over(A, 1)
    ledger.limits = attrs.evolve(ledger.limits, report_entries_max=10)
    for number in range(30):
        kind = EntryKind.BAD_ITEM if number == 3 else EntryKind.STAGE if number % 2 else EntryKind.LINE
        await ledger.write(A, 1, entries=[ReportEntry(at_ms=number, kind=kind, text=f"{number}", data={})])
    kept = [entry.text for entry in await ledger.entries(A)]
    assert kept == ["3", *(str(number) for number in range(20, 30))]


async def test_a_long_report_is_never_longer_than_its_bound_by_more_than_a_few_hundredths(ledger: Ledger) -> None:
    await ledger.add(request())
    await ledger.take_over(A, 1)
    ledger.limits = attrs.evolve(ledger.limits, report_entries_max=1000)
    for at in range(0, 2100, 7):
        lines = [ReportEntry(at_ms=at, kind=EntryKind.LINE, text=f"{at + n}", data={}) for n in range(7)]
        await ledger.write(A, 1, entries=lines)
        kept = await ledger.entries(A)
        assert min(at + 7, 1000) <= len(kept) <= 1020
    assert kept[-1].text == "2099"
