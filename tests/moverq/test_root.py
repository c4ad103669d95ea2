"""The library's root: what a script sees of an organisation, its errors and its ends."""

from collections.abc import AsyncIterator, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

import moverq
from moverq import Root, init_root, open_root
from moverq.errors import EndpointBroken, EndpointUnavailable, MailboxLocked, NotFound, RequestRefused
from moverq.flow import trouble
from moverq.limits import Limits
from moverq.mailbox_files import Imported, import_mail
from moverq.mailfiles import MailItem
from moverq.mailmaker import make_mail
from moverq.model.ids import RequestId
from moverq.model.request import Status
from moverq.session import Place
from moverq.shown import Look
from store.log.log import Log

ADA = "ada@example.org"
MESSAGE = b"Subject: hello\r\n\r\nhow are you?\r\n"


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    await init_root(tmp_path / "root")
    async with open_root(tmp_path / "root") as root:
        for number in (1, 2):
            await root.server_add(f"EX{number}", version="2010")
            await root.database_add(f"DB{number}", server=f"EX{number}")
        await root.mailbox_add(ADA, database="DB1")
    return tmp_path / "root"


@pytest.fixture
async def root(path: Path) -> AsyncIterator[Root]:
    async with open_root(path) as opened:
        yield opened


def mail(count: int) -> list[MailItem]:
    return list(make_mail(3, count, 2000))


async def test_a_script_moves_a_mailbox_and_takes_it_back(root: Root) -> None:
    await root.deliver(ADA, MESSAGE)
    done = await root.wait(await root.move(ADA, to="DB2"))
    assert (done.status, done.epoch) == ("Completed", 2)
    assert await root.deliver(ADA, MESSAGE, key=b"after")
    await root.wait(await root.rollback(ADA))
    shown = await root.mailbox_show(ADA)
    assert (shown.database, shown.epoch, shown.items) == ("DB1", 3, 2)


async def test_an_error_in_the_block_comes_out_as_itself(path: Path) -> None:
    """A script that says `except RequestRefused` shall not have to know of nurseries."""

    async def use(error: BaseException) -> None:
        async with open_root(path) as root:
            await root.store("DB1")
            raise error

    for error in (RequestRefused(why="no"), KeyboardInterrupt(), ValueError("a bug")):
        with pytest.raises(type(error)) as caught:
            await use(error)
        assert caught.value is error


async def test_a_database_is_opened_once_by_however_many(root: Root) -> None:
    found = []

    async def ask() -> None:
        found.append(await root.store("DB1"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert len({id(endpoint) for endpoint in found}) == 1


async def test_whoever_gave_up_waiting_for_a_database_does_not_keep_the_others_from_it(root: Root) -> None:
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            await root.store("DB1")
        nursery.start_soon(root.store, "DB1")
        assert (await root.store("DB1")).name == "DB1"


async def test_a_database_that_cannot_be_opened_can_be_asked_for_again(root: Root, path: Path) -> None:
    catalogue = path / "databases" / "DB2" / "catalogue.sqlite"
    catalogue.rename(catalogue.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(moverq.errors.EndpointBroken, match="rebuild"):
            await root.store("DB2")
    catalogue.with_suffix(".away").rename(catalogue)
    assert (await root.store("DB2")).name == "DB2"


async def test_a_missing_root_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="moverq init"):
        async with open_root(tmp_path / "nothing"):
            pass


async def test_a_delivery_to_a_locked_mailbox_says_so_and_follows_one_that_moved(root: Root) -> None:
    home = (await root.directory.locate(ADA)).register.home
    source = (await root.store("DB1")).source(home.instance)
    await source.lock(1000)
    with pytest.raises(MailboxLocked):
        await root.deliver(ADA, MESSAGE)
    await source.unlock(1000)
    assert await root.deliver(ADA, MESSAGE)
    assert not await root.deliver(ADA, MESSAGE)


async def test_a_verb_does_not_wait_for_ever_for_a_locked_mailbox(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moverq.mailbox_files.PATIENCE_S", 0.05)
    home = (await root.directory.locate(ADA)).register.home
    await (await root.store("DB1")).source(home.instance).lock(1000)
    with pytest.raises(EndpointUnavailable, match="moverq move explain"):
        await root.mailbox_set(ADA, "x-colour", "blue")


async def test_the_queue_delivers_when_the_lock_is_gone(root: Root) -> None:
    home = (await root.directory.locate(ADA)).register.home
    source = (await root.store("DB1")).source(home.instance)
    await source.lock(1000)
    async with root.transport() as transport:
        await transport.submit("bob@example.net", ADA, MESSAGE)
        await trio.sleep(0.1)
        assert (await root.mailbox_show(ADA)).items == 0
        await source.unlock(1000)
        with trio.fail_after(10):
            await transport.wait_idle()
    assert (await root.mailbox_show(ADA)).items == 1


async def test_wait_that_is_cancelled_leaves_the_move_to_the_next(path: Path) -> None:
    async with open_root(path, limits=Limits(batch_items_max=8)) as root:
        await import_mail(root.session(ADA), iter(mail(200)))
        request = await root.move(ADA, to="DB2")
        with trio.CancelScope() as scope:
            await root.wait_all([request], on_look=lambda looks: scope.cancel() if looks[0].progress else None)
    async with open_root(path) as root:
        assert (await root.wait(request)).status == "Completed"
        assert (await root.mailbox_show(ADA)).items == 200


async def test_wait_only_watches_where_it_is_told_to(root: Root) -> None:
    request = await root.move(ADA, to="DB2")
    with trio.move_on_after(0.3) as scope:
        await root.wait(request, work=False)
    assert scope.cancelled_caught
    assert (await root.move_show(ADA)).status == "Queued"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(root.worker)
        assert (await root.wait(request, work=False)).status == "Completed"
        nursery.cancel_scope.cancel()


async def test_wait_outlives_a_ledger_that_is_busy(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    look, looks = Root.look, count()

    async def sometimes(root: Root, requests: Iterable[RequestId], *more: Any) -> list[Look]:
        if next(looks) in (1, 2):
            raise EndpointUnavailable(endpoint="ledger", why="others write")
        return await look(root, requests, *more)

    monkeypatch.setattr(Root, "look", sometimes)
    monkeypatch.setattr(trouble, "FIRST_S", 0.01)
    done = await root.wait(await root.move(ADA, to="DB2"))
    assert done.status == "Completed"
    assert next(looks) > 2


async def test_waiting_for_one_move_leaves_the_others_alone(root: Root) -> None:
    await root.mailbox_add("bob@example.org", database="DB1")
    mine, other = await root.move(ADA, to="DB2"), await root.move("bob@example.org", to="DB2")
    await root.wait(mine)
    assert (await root.move_show(other)).status == "Queued"
    assert [one.address for one in await root.move_list(statuses=[Status.QUEUED])] == ["bob@example.org"]


async def test_a_request_that_is_removed_while_one_waits_is_not_found(root: Root) -> None:
    request = await root.move(ADA, to="DB2", suspend_when_ready_to_complete=True)
    await root.wait(request)
    await root.remove(ADA)
    with pytest.raises(NotFound):
        await root.wait(request)
    assert (await root.mailbox_show(ADA)).guard == "open"


async def test_an_import_cut_short_goes_on_where_it_was(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moverq.mailbox_files.BATCH_ITEMS", 20)
    done = Imported()
    with trio.CancelScope() as scope:
        await import_mail(
            root.session(ADA),
            iter(mail(100)),
            done=done,
            on_batch=lambda so_far: scope.cancel() if so_far.items > 30 else None,
        )
    assert scope.cancelled_caught
    assert 30 < done.items < 100
    again = await import_mail(root.session(ADA), iter(mail(100)))
    assert (again.items, again.present) == (100 - done.items, done.items)
    assert (await root.mailbox_show(ADA)).items == 100


async def test_mail_is_imported_while_the_mailbox_moves(root: Root) -> None:
    await import_mail(root.session(ADA), iter(mail(100)))
    more = list(make_mail(4, 200, 2000))
    session = root.session(ADA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(import_mail, session, iter(more))
        done = await root.wait(await root.move(ADA, to="DB2"))
    assert done.status == "Completed"
    shown = await root.mailbox_show(ADA)
    assert (shown.database, shown.items) == ("DB2", 300)


async def test_an_export_has_every_item_once_also_where_the_mailbox_moves_meanwhile(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moverq.mailbox_files.PAGE_ITEMS", 10)
    await import_mail(root.session(ADA), iter(mail(50)))
    moved = False

    async def move() -> None:
        await root.wait(await root.move(ADA, to="DB2"))

    def once(_: object) -> None:
        nonlocal moved
        if not moved:
            moved = True
            trio.from_thread.run(move)

    done = await root.mailbox_export(ADA, tmp_path / "out", form="mbox", on_batch=once)
    assert (moved, done.items, done.damaged) == (True, 50, [])
    await root.mailbox_add("bob@example.org", database="DB1")
    assert (await root.mailbox_import("bob@example.org", tmp_path / "out")).items == 50


async def test_a_setting_and_an_alias_move_along(root: Root) -> None:
    await root.mailbox_set(ADA, "retention_days", 7)
    await root.alias_add(ADA, "countess@example.org")
    await root.wait(await root.move(ADA, to="DB2"))
    shown = await root.mailbox_show("countess@example.org")
    assert (shown.database, shown.settings) == ("DB2", {"retention_days": "7"})


async def test_an_address_that_several_add_at_once_leaves_no_mailbox_that_nobody_names(root: Root) -> None:
    outcomes: list[str] = []

    async def add() -> None:
        try:
            await root.mailbox_add("bob@example.org", database="DB2")
        except RequestRefused:
            outcomes.append("refused")
        else:
            outcomes.append("added")

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(add)
    assert sorted(outcomes) == ["added", "refused", "refused", "refused"]
    assert [one.known_to for one in await root.instances("DB2")] == ["home of bob@example.org"]


@pytest.mark.parametrize("quota", [None, 1 << 20])
async def test_a_mailbox_that_the_directory_had_no_room_for_is_taken_away_again(
    root: Root, monkeypatch: pytest.MonkeyPatch, quota: int | None
) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise EndpointBroken(endpoint="directory.sqlite", why="the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(type(root.directory), "add_recipient", full)
        with pytest.raises(EndpointBroken, match="the disk is full"):
            await root.mailbox_add("bob@example.org", database="DB2", quota_bytes=quota)
    assert await root.instances("DB2") == []
    await root.mailbox_add("bob@example.org", database="DB2", quota_bytes=quota)


async def test_an_instance_that_nobody_names_is_told_and_kept(root: Root) -> None:
    from moverq.model.ids import InstanceId, MailboxId, new_id

    await (await root.store("DB1")).add_mailbox(MailboxId(new_id()), InstanceId(new_id()))
    assert sorted(str(one.known_to) for one in await root.instances("DB1")) == ["None", f"home of {ADA}"]
    assert (await (await root.store("DB1")).database.maintain()).dropped == 0
    assert len(await root.instances("DB1")) == 2


async def test_a_database_whose_commit_failed_half_way_is_opened_again(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has a session, and who keeps the databases in order, go on with it; nobody starts the process again."""
    session, numbers = root.session(ADA), count()

    async def put(place: Place) -> str | None:
        await place.mailbox.set_setting("x-number", next(numbers))
        return place.home.database

    assert await session.use(put) == "DB1"
    before = await root.store("DB1")

    def fail(self: Log, *_: object, **__: object) -> None:
        raise OSError("the disk went away")

    with structlog.testing.capture_logs() as said:
        with monkeypatch.context() as patches:
            patches.setattr(Log, "append", fail)
            with pytest.raises(EndpointBroken, match="half-way"):
                await session.use(put)
        with trio.fail_after(10):
            while root._databases._stores.get("DB1") is before:  # noqa: ASYNC110 (its task closes it)
                await trio.sleep(0.01)
        assert await session.use(put) == "DB1"
        assert await root.deliver(ADA, MESSAGE)
    assert (await root.store("DB1")) is not before
    assert [one["database"] for one in said] == ["DB1"]
