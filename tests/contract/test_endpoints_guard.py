"""The contract of an endpoint, part one: who may write, whose turn it is, and how an instance begins and ends."""

from collections.abc import Awaitable, Callable

import pytest

from moverq.endpoints.base import FolderStep, Guard, GuardMode, Home, Source, StepKind, Target
from moverq.errors import MailboxLocked, MailboxMoved, NotFound, RequestRefused, StaleToken
from moverq.model.change import ChangeBatch, Watermark
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.endpoints import Kit, Mailbox, message
from tests.support.mover import seed, sync

ELSEWHERE = Home("elsewhere", InstanceId(b"e" * 16))
NOW_AND_FOREVER_MS = 1 << 52


async def everything(side: Source | Target) -> object:
    """What must not have changed; with the guard."""
    return await side.account(), await side.guard(), (await side.summary()).head


# --- clients and the guard ----------------------------------------------------------------------------------------

ClientVerb = Callable[[Mailbox, ItemId, FolderId], Awaitable[object]]
"""On a mailbox with an item and a folder."""

CLIENT_VERBS: dict[str, ClientVerb] = {
    "deliver": lambda m, item, folder: m.client.deliver(message(b"late")),
    "append": lambda m, item, folder: m.client.append(folder, message(b"late")),
    "set_flags": lambda m, item, folder: m.client.set_flags(item, 1),
    "move_item": lambda m, item, folder: m.client.move_item(item, folder),
    "copy_item": lambda m, item, folder: m.client.copy_item(item, folder),
    "delete_item": lambda m, item, folder: m.client.delete_item(item),
    "purge_item": lambda m, item, folder: m.client.delete_item(item, purge=True),
    "create_folder": lambda m, item, folder: m.client.create_folder("late"),
    "rename_folder": lambda m, item, folder: m.client.rename_folder(folder, "late"),
    "move_folder": lambda m, item, folder: m.client.move_folder(folder, None, "late"),
    "delete_folder": lambda m, item, folder: m.client.delete_folder(folder),
    "set_setting": lambda m, item, folder: m.client.set_setting("rules", "[]"),
}


@pytest.fixture(params=sorted(CLIENT_VERBS))
def client_verb(request: pytest.FixtureRequest) -> ClientVerb:
    return CLIENT_VERBS[request.param]


async def test_no_client_writes_to_a_locked_mailbox(mailbox: Mailbox, client_verb: ClientVerb) -> None:
    item_id = await mailbox.client.append(mailbox.inbox, message(b"before"))
    folder_id = await mailbox.client.create_folder("Folder")
    await mailbox.source.lock(1)
    before = await everything(mailbox.source)
    with pytest.raises(MailboxLocked):
        await client_verb(mailbox, item_id, folder_id)
    assert await everything(mailbox.source) == before


async def test_a_client_of_a_retired_mailbox_is_told_where_it_went(mailbox: Mailbox, client_verb: ClientVerb) -> None:
    item_id = await mailbox.client.append(mailbox.inbox, message(b"before"))
    folder_id = await mailbox.client.create_folder("Folder")
    await mailbox.source.lock(1)
    await mailbox.source.retire(1, ELSEWHERE)
    before = await everything(mailbox.source)
    with pytest.raises(MailboxMoved) as moved:
        await client_verb(mailbox, item_id, folder_id)
    assert moved.value.home == str(ELSEWHERE)
    assert await everything(mailbox.source) == before


async def test_a_client_of_a_sealed_target_has_to_wait(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    with pytest.raises(MailboxLocked):
        await there.client(target_instance).deliver(message(b"too early"))
    assert (await target.summary()).items == 0


async def test_clients_write_again_after_unlock_and_after_open(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    await mailbox.source.lock(1)
    await mailbox.source.unlock(1)
    await mailbox.client.deliver(message(b"again"))
    await target.open(1)
    await there.client(target_instance).deliver(message(b"first"))
    assert (await target.summary()).items == 1


# --- the mover and the guard --------------------------------------------------------------------------------------

MoverVerb = Callable[[Target, int], Awaitable[object]]


def no_changes(through: int = 0) -> ChangeBatch:
    return ChangeBatch(through=Watermark(b"t", InstanceId(b"i"), through), more=False)


WRITES: dict[str, MoverVerb] = {
    "write_items": lambda t, token: t.write_items((), token),
    "apply_changes": lambda t, token: t.apply_changes(no_changes(1 << 30), token),
}
TURNS_OF_A_SOURCE: dict[str, Callable[[Source, int], Awaitable[object]]] = {
    "claim": lambda s, token: s.claim(token),
    "lock": lambda s, token: s.lock(token),
    "unlock": lambda s, token: s.unlock(token),
    "retire": lambda s, token: s.retire(token, ELSEWHERE),
}
TURNS_OF_A_TARGET: dict[str, MoverVerb] = {
    "claim": lambda t, token: t.claim(token),
    "seal": lambda t, token: t.seal(token),
    "open": lambda t, token: t.open(token),
    "remove": lambda t, token: t.remove(token, keep_until_ms=0),
    **WRITES,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_the_mover_does_not_write_to_an_open_or_locked_mailbox(
    mailbox: Mailbox, here: Kit, write: MoverVerb
) -> None:
    as_target = here.endpoint.target(mailbox.instance)
    folder = (await mailbox.source.read_hierarchy())[0]
    for turn in (mailbox.source.unlock, mailbox.source.lock):
        await turn(1)
        before = await everything(mailbox.source)
        with pytest.raises(RequestRefused):
            await write(as_target, 1)
        with pytest.raises(RequestRefused):
            await as_target.apply_folders([FolderStep(StepKind.REMOVE, folder)], 1)
        assert await everything(mailbox.source) == before


@pytest.mark.parametrize("turn", TURNS_OF_A_SOURCE.values(), ids=TURNS_OF_A_SOURCE.keys())
async def test_a_lower_token_changes_nothing_at_a_source(
    mailbox: Mailbox, turn: Callable[[Source, int], Awaitable[object]]
) -> None:
    await mailbox.source.lock(5)
    before = await everything(mailbox.source)
    with pytest.raises(StaleToken) as stale:
        await turn(mailbox.source, 4)
    assert (stale.value.held, stale.value.seen) == (4, 5)
    assert await everything(mailbox.source) == before


@pytest.mark.parametrize("turn", TURNS_OF_A_TARGET.values(), ids=TURNS_OF_A_TARGET.keys())
async def test_a_lower_token_changes_nothing_at_a_target(mailbox: Mailbox, target: Target, turn: MoverVerb) -> None:
    await target.claim(5)
    before = await everything(target)
    with pytest.raises(StaleToken):
        await turn(target, 4)
    assert await everything(target) == before


async def test_a_lower_token_creates_nothing_and_takes_no_folder_step(mailbox: Mailbox, target: Target) -> None:
    await target.claim(5)
    before = await everything(target)
    with pytest.raises(StaleToken):
        await target.create((await mailbox.source.summary()).mailbox_id, 4)
    with pytest.raises(StaleToken):
        await target.apply_folders([FolderStep(StepKind.REMOVE, (await target.read_hierarchy())[0])], 4)
    assert await everything(target) == before


@pytest.mark.parametrize("turn", TURNS_OF_A_SOURCE.values(), ids=TURNS_OF_A_SOURCE.keys())
async def test_a_higher_token_is_stored_with_its_effect_at_a_source(
    mailbox: Mailbox, turn: Callable[[Source, int], Awaitable[object]]
) -> None:
    await mailbox.source.lock(5)
    await turn(mailbox.source, 7)
    assert (await mailbox.source.guard()).token == 7


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_a_higher_token_is_stored_with_its_effect_at_a_target(target: Target, write: MoverVerb) -> None:
    await write(target, 7)
    assert await target.guard() == Guard(GuardMode.SEALED, 7)


async def test_a_claim_keeps_the_mode_and_makes_lower_tokens_stale(mailbox: Mailbox) -> None:
    assert await mailbox.source.claim(3) == Guard(GuardMode.OPEN, 3)
    await mailbox.client.deliver(message(b"clients do not notice"))
    with pytest.raises(StaleToken):
        await mailbox.source.lock(2)


# --- turns of the guard -------------------------------------------------------------------------------------------


async def test_a_feed_read_through_the_lock_holds_every_acknowledged_write(mailbox: Mailbox) -> None:
    start = await mailbox.source.head()
    written = {await mailbox.client.append(mailbox.inbox, message(b"%d" % n)) for n in range(5)}
    before = await mailbox.source.head()
    locked_at = await mailbox.source.lock(1)
    assert before < locked_at <= await mailbox.source.head()
    batch = await mailbox.source.read_feed(start, changes_max=100)
    assert {item.item_id for item in batch.items} == written
    assert not batch.more
    assert batch.through >= locked_at


async def test_locking_again_gives_a_watermark_with_the_same_property(mailbox: Mailbox) -> None:
    await mailbox.client.deliver(message(b"one"))
    first = await mailbox.source.lock(1)
    for token in (1, 2):
        again = await mailbox.source.lock(token)
        assert first <= again <= await mailbox.source.head()
    assert await mailbox.source.guard() == Guard(GuardMode.LOCKED, 2)


async def test_unlocking_is_a_change_so_a_later_lock_stands_beyond(mailbox: Mailbox) -> None:
    first = await mailbox.source.lock(1)
    await mailbox.source.unlock(1)
    assert await mailbox.source.head() > first
    assert await mailbox.source.lock(1) > first


async def test_unlocking_an_open_mailbox_does_no_harm(mailbox: Mailbox) -> None:
    await mailbox.source.unlock(1)
    assert await mailbox.source.guard() == Guard(GuardMode.OPEN, 1)


async def test_a_retired_mailbox_is_not_unlocked_locked_or_opened(mailbox: Mailbox, here: Kit) -> None:
    await mailbox.source.lock(1)
    await mailbox.source.retire(1, ELSEWHERE)
    for refused in (mailbox.source.unlock, mailbox.source.lock, here.endpoint.target(mailbox.instance).open):
        with pytest.raises(RequestRefused):
            await refused(2)
    assert await mailbox.source.guard() == Guard(GuardMode.RETIRED, 1, ELSEWHERE)


async def test_retiring_again_renews_the_redirect(mailbox: Mailbox) -> None:
    await mailbox.source.lock(1)
    await mailbox.source.retire(1, ELSEWHERE)
    further = Home("further", InstanceId(b"f" * 16))
    await mailbox.source.retire(2, further)
    assert await mailbox.source.guard() == Guard(GuardMode.RETIRED, 2, further)


async def test_only_a_retired_mailbox_is_sealed_and_then_opened(mailbox: Mailbox, here: Kit) -> None:
    as_target = here.endpoint.target(mailbox.instance)
    with pytest.raises(RequestRefused):
        await as_target.seal(1)
    await mailbox.source.lock(1)
    with pytest.raises(RequestRefused):
        await as_target.seal(1)
    await mailbox.source.retire(1, ELSEWHERE)
    await as_target.seal(2)
    await as_target.seal(2)
    assert await as_target.guard() == Guard(GuardMode.SEALED, 2)
    await as_target.open(2)
    await as_target.open(2)
    assert await as_target.guard() == Guard(GuardMode.OPEN, 2)
    await mailbox.client.deliver(message(b"back at home"))


async def test_a_locked_mailbox_is_not_opened(mailbox: Mailbox, here: Kit) -> None:
    await mailbox.source.lock(1)
    with pytest.raises(RequestRefused):
        await here.endpoint.target(mailbox.instance).open(1)
    assert await mailbox.source.guard() == Guard(GuardMode.LOCKED, 1)


async def test_a_rollback_given_up_is_retired_again(mailbox: Mailbox, here: Kit) -> None:
    await mailbox.source.lock(1)
    await mailbox.source.retire(1, ELSEWHERE)
    await here.endpoint.target(mailbox.instance).seal(2)
    await mailbox.source.retire(2, ELSEWHERE)
    assert await mailbox.source.guard() == Guard(GuardMode.RETIRED, 2, ELSEWHERE)


async def test_the_reverse_feed_reaches_a_retired_mailbox(
    mailbox: Mailbox, there: Kit, here: Kit, target: Target, target_instance: InstanceId
) -> None:
    after = await seed(mailbox.source, target, 1)
    await mailbox.source.lock(1)
    await sync(mailbox.source, target, after, 1)
    await mailbox.source.retire(1, ELSEWHERE)
    reverse = there.endpoint.source(target_instance)
    reverse_from = await reverse.head()
    await target.open(1)
    item_id = await there.client(target_instance).deliver(message(b"arrived after the move"))
    await sync(reverse, here.endpoint.target(mailbox.instance), reverse_from, 1)
    read, _, _ = await mailbox.source.fetch([item_id], bytes_max=100)
    assert [item.content for item in read] == [message(b"arrived after the move")]


# --- beginning and end --------------------------------------------------------------------------------------------


async def test_a_created_instance_is_empty_and_sealed(there: Kit, mailbox_id: MailboxId) -> None:
    instance = InstanceId(new_id())
    made = there.endpoint.target(instance)
    assert not await made.exists()
    await made.create(mailbox_id, 3)
    assert await made.exists()
    summary = await made.summary()
    assert (summary.mailbox_id, summary.instance) == (mailbox_id, instance)
    assert summary.guard == Guard(GuardMode.SEALED, 3)
    assert (summary.folders, summary.items, summary.bytes) == (0, 0, 0)


async def test_creating_again_claims_what_is_there(mailbox: Mailbox, target: Target) -> None:
    await mailbox.client.deliver(message(b"one"))
    await seed(mailbox.source, target, 1)
    await target.create((await mailbox.source.summary()).mailbox_id, 2)
    assert await target.guard() == Guard(GuardMode.SEALED, 2)
    assert (await target.summary()).items == 1


async def test_creating_does_not_take_another_mailboxs_instance(mailbox: Mailbox, target: Target) -> None:
    with pytest.raises(RequestRefused):
        await target.create(MailboxId(new_id()), 2)


async def test_what_is_not_there_is_not_found(there: Kit) -> None:
    nowhere = InstanceId(new_id())
    with pytest.raises(NotFound):
        await there.endpoint.source(nowhere).head()
    with pytest.raises(NotFound):
        await there.endpoint.target(nowhere).guard()


async def test_instances_lists_every_one_whatever_its_guard(mailbox: Mailbox, here: Kit, mailbox_id: MailboxId) -> None:
    sealed = InstanceId(new_id())
    await here.endpoint.target(sealed).create(mailbox_id, 1)
    await mailbox.source.lock(1)
    assert {s.instance: s.guard.mode for s in await here.endpoint.instances()} == {
        mailbox.instance: GuardMode.LOCKED,
        sealed: GuardMode.SEALED,
    }


async def test_an_open_or_locked_mailbox_is_not_removed(mailbox: Mailbox) -> None:
    for turn in (mailbox.source.unlock, mailbox.source.lock):
        await turn(1)
        with pytest.raises(RequestRefused):
            await mailbox.source.remove(1, keep_until_ms=0)
    assert (await mailbox.source.guard()).mode is GuardMode.LOCKED


async def test_a_removed_instance_is_out_of_reach_until_it_is_purged(target: Target, there: Kit) -> None:
    await target.remove(1, keep_until_ms=0)
    await target.remove(2, keep_until_ms=0)
    assert not await target.exists()
    assert await there.endpoint.instances() == []
    assert await target.guard() == Guard(GuardMode.SEALED, 2)
    with pytest.raises(NotFound):
        await target.summary()
    with pytest.raises(NotFound):
        await target.open(2)
    await target.purge(2)
    with pytest.raises(NotFound):
        await target.guard()
    await target.purge(2)
    await target.remove(2, keep_until_ms=0)


async def test_a_purged_instance_is_never_made_again(target: Target, there: Kit) -> None:
    """A mover that slept through the purge wakes in front of its `create`, and there is no guard that could stop it."""
    mailbox_id = (await target.summary()).mailbox_id
    await target.remove(3, keep_until_ms=0)
    await target.purge(4)
    for late in (
        lambda: target.create(mailbox_id, 2),
        lambda: target.remove(3, keep_until_ms=0),
        lambda: target.purge(3),
    ):
        with pytest.raises(StaleToken):
            await late()
    with pytest.raises(RequestRefused):
        await target.create(mailbox_id, 5)
    assert not await target.exists()
    assert await there.endpoint.instances() == []


async def test_only_a_removed_instance_is_purged_and_only_after_its_date(target: Target) -> None:
    with pytest.raises(RequestRefused):
        await target.purge(1)
    await target.remove(1, keep_until_ms=NOW_AND_FOREVER_MS)
    with pytest.raises(RequestRefused):
        await target.purge(1)
    assert await target.guard() == Guard(GuardMode.SEALED, 1)


async def test_a_lower_token_does_not_purge(target: Target) -> None:
    await target.remove(5, keep_until_ms=0)
    with pytest.raises(StaleToken):
        await target.purge(4)
    assert (await target.guard()).token == 5
