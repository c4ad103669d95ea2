"""The verbs: what they refuse, and that asking twice is asking once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moverq import moves
from moverq.directory.directory import DatabaseEntry
from moverq.endpoints.base import Home
from moverq.endpoints.kinds import place_of
from moverq.endpoints.memory import MemoryEndpoint
from moverq.errors import NotFound, RequestRefused
from moverq.model.ids import MailboxId
from tests.support.move_world import ADDRESS, Engine, World


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = (await World.make(tmp_path)).engine()
    yield engine
    await engine.close()


@pytest.mark.parametrize(
    ("address", "database", "options", "sentence"),
    [
        ("nobody@example.org", "DB2", {}, "there is no mailbox nobody@example.org"),
        ("no address", "DB2", {}, "there is no mailbox no address"),
        (ADDRESS, "DB77", {}, "there is no database DB77"),
        (ADDRESS, "DB1", {}, "is in DB1 already"),
        (ADDRESS, "DB2", {"bad_item_limit": 51}, "confirm it with --accept-large-data-loss"),
        (ADDRESS, "DB2", {"bad_item_limit": None}, "confirm it with --accept-large-data-loss"),
        (ADDRESS, "DB2", {"lock_budget_ms": 0}, "a lock budget is from 1 to"),
        (ADDRESS, "DB2", {"lock_budget_ms": 1 << 70}, "a lock budget is from 1 to"),
        (ADDRESS, "DB2", {"complete_after_ms": 1 << 60}, "before|between 1970 and the year 10000"),
        (ADDRESS, "DB2", {"soak_s": 1 << 50}, "last for a hundred years at most"),
        (ADDRESS, "DB2", {"retention_s": -1}, "last for a hundred years at most"),
    ],
)
async def test_what_cannot_be_done_is_refused_in_a_sentence(
    engine: Engine, address: str, database: str, options: dict[str, int | None], sentence: str
) -> None:
    ledger = await engine.ledger()
    with pytest.raises(RequestRefused, match=sentence):
        await moves.new_move(ledger, engine.directory, address, database, **options)  # type: ignore[arg-type]
    assert await ledger.find() == []


async def test_fifty_bad_items_need_no_confirmation_and_more_do(engine: Engine) -> None:
    ledger = await engine.ledger()
    await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", bad_item_limit=50)


async def test_a_mailbox_is_moved_once_at_a_time(engine: Engine) -> None:
    ledger = await engine.ledger()
    first = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", idempotency_key="mine")
    with pytest.raises(RequestRefused, match=f"is being moved by request {first.request.request_id} \\(Queued\\)"):
        await moves.new_move(ledger, engine.directory, ADDRESS, "DB3")
    again = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", idempotency_key="mine")
    assert again.request == first.request
    assert (await engine.world.recipient()).active_move == first.request.request_id


async def test_a_mailbox_is_not_moved_to_where_it_is_under_another_name(engine: Engine) -> None:
    """What comes to the one side would be carried to the other, which is the same, again and again."""
    home = (await engine.directory.locate(ADDRESS)).register.home.database
    entry = await engine.directory.database(home)
    await engine.directory.add_database(DatabaseEntry(name="TWIN", server=entry.server, path=f"{entry.path}/."))
    with pytest.raises(RequestRefused, match="are two names of one place"):
        await moves.new_move(await engine.ledger(), engine.directory, ADDRESS, "TWIN")


def test_a_mail_system_is_one_place_however_it_is_reached() -> None:
    imap = "imaps://admin@mail.example.org/?password-file=/a"
    assert place_of(imap) == place_of("imaps://admin@Mail.Example.Org:993/?password-env=B&connections=2")
    assert place_of(imap) != place_of("imaps://admin@mail.example.org:1993/?password-file=/a")
    assert place_of("maildir:/srv/%u") == place_of("maildir:/srv/%u/?lock-command=/x")
    assert place_of("maildir:/srv/%u") != place_of("mbox:/srv/%u")


async def test_a_key_is_of_one_request(engine: Engine) -> None:
    """Who asks for another move with it is told so, and not that his move is under way."""
    ledger = await engine.ledger()
    first = await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", idempotency_key="mine")
    bob = MailboxId(b"b" * 16)
    mailbox = MemoryEndpoint("DB1", engine.world.databases["DB1"]).add_mailbox(bob)
    await engine.directory.add_recipient(bob, "bob@example.org", Home("DB1", mailbox.instance))
    for address, database in ((ADDRESS, "DB3"), ("bob@example.org", "DB2")):
        with pytest.raises(RequestRefused, match="is that of another request: ada@"):
            await moves.new_move(ledger, engine.directory, address, database, idempotency_key="mine")
    with pytest.raises(RequestRefused, match="is that of another request"):
        await moves.rollback(ledger, engine.directory, first.request.request_id, idempotency_key="mine")


async def test_a_larger_limit_is_confirmed_at_resume_too_and_what_is_over_keeps_its_own(engine: Engine) -> None:
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    with pytest.raises(RequestRefused, match="confirm it with --accept-large-data-loss"):
        await moves.resume(ledger, request_id, bad_item_limit=51)
    await moves.resume(ledger, request_id, bad_item_limit=51, accept_large_data_loss=True)
    await (await engine.service()).run(drain=True)
    with pytest.raises(RequestRefused, match="is Completed already"):
        await moves.resume(ledger, request_id, bad_item_limit=5)
    assert (await ledger.get(request_id)).request.bad_item_limit == 51


async def test_a_request_is_found_by_address_and_by_the_beginning_of_its_id(engine: Engine) -> None:
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    assert await moves.find_request(ledger, engine.directory, "ADA@example.org") == request_id
    assert await moves.find_request(ledger, engine.directory, request_id[:6]) == request_id
    for nobody in ("zzzz", "\udcff", f"{request_id}0", request_id[:5] + "\x7f"):
        with pytest.raises(NotFound):
            await moves.find_request(ledger, engine.directory, nobody)


async def test_a_mailbox_that_is_removed_while_its_move_is_asked_for_leaves_no_request(engine: Engine) -> None:
    """Nobody could remove that one: each turn of a job begins with the mailbox's next token."""
    ledger, directory = await engine.ledger(), engine.directory
    recipient = await engine.world.recipient()

    async def meanwhile(name: str) -> None:
        if name == "claim_move:before":
            directory.before = None
            await directory.remove_recipient(recipient.mailbox_id, expected=recipient.register)

    directory.before = meanwhile
    with pytest.raises(NotFound):
        await moves.new_move(ledger, directory, ADDRESS, "DB2")
    assert await ledger.find() == []


async def test_removing_a_request_that_never_ran_leaves_nothing(engine: Engine) -> None:
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    await moves.remove(ledger, request_id)
    await (await engine.service()).run(drain=True)
    assert await ledger.find() == []
    assert (await engine.world.recipient()).active_move is None
    assert len(engine.world.instances()) == 1


async def test_a_suspended_request_waits_to_be_resumed(engine: Engine) -> None:
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", suspended=True)).request.request_id
    await (await engine.service()).run(drain=True)
    assert (await moves.get(ledger, request_id)).status == "Suspended"
    await moves.resume(ledger, request_id)
    await (await engine.service()).run(drain=True)
    assert (await moves.get(ledger, request_id)).status == "Completed"


async def test_the_statistics_are_plain_json_with_iso_dates(engine: Engine) -> None:
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    stats = (await moves.get(ledger, request_id)).to_json()
    assert stats["queued_timestamp"].startswith("2023-11-14T22:13:20.")
    assert stats["queued_timestamp"].endswith("Z")
    assert {"address", "source_database", "lock_ms", "digest_ledger", "total_finalization_duration"} <= stats.keys()
    assert stats["total_queued_duration"] >= 0


async def test_what_may_be_changed_of_a_running_request(engine: Engine) -> None:
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    changed = await moves.set_move(ledger, request_id, bad_item_limit=7, lock_budget_ms=50, batch_name="b")
    assert (changed.request.bad_item_limit, changed.request.lock_budget_ms, changed.request.batch_name) == (7, 50, "b")
    with pytest.raises(RequestRefused, match="accept-large-data-loss"):
        await moves.set_move(ledger, request_id, bad_item_limit=None)


async def test_there_is_nothing_to_take_back_before_the_end(engine: Engine) -> None:
    ledger = await engine.ledger()
    request_id = (await moves.new_move(ledger, engine.directory, ADDRESS, "DB2")).request.request_id
    with pytest.raises(RequestRefused, match="has not been completed"):
        await moves.rollback(ledger, engine.directory, request_id)
