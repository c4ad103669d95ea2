"""The contract of an endpoint, part three: the side a mailbox goes to merges what it is given, and keeps its names."""

import attrs
import pytest
import xxhash

from moverq.endpoints.base import FolderStep, StepKind, Target
from moverq.errors import RequestRefused
from moverq.model.change import (
    ChangeBatch,
    DeliveryKeyState,
    FolderState,
    Gone,
    ItemContent,
    ItemState,
    SettingState,
    Watermark,
)
from moverq.model.ids import FolderId, InstanceId, ItemId, new_id
from tests.support.endpoints import Kit, Mailbox, message
from tests.support.mover import digest_of, seed


def item(
    folder_id: FolderId, *, uid: int = 1, modseq: int = 1000, content: bytes = b"Subject: x\r\n\r\n", flags: int = 0
) -> ItemContent:
    """An item as a source would hand it over."""
    return ItemContent(
        ItemState(
            item_id=ItemId(new_id()),
            folder_id=folder_id,
            uid=uid,
            modseq=modseq,
            received_ms=1_700_000_000_000,
            size=len(content),
            content_hash=xxhash.xxh3_128_digest(content),
            flags=flags,
            keywords=("$Forwarded", "work"),
            item_class="IPM.Note",
            properties={"importance": "high"},
        ),
        content,
    )


def later(written: ItemContent, **changes: object) -> ItemContent:
    """The item as it is one change later."""
    state = written.state._replace(**({"modseq": written.state.modseq + 1} | changes))  # type: ignore[arg-type]
    return ItemContent(state, written.content)


def batch(
    *items: ItemState,
    gone: tuple[Gone, ...] = (),
    settings: tuple[SettingState, ...] = (),
    keys: tuple[DeliveryKeyState, ...] = (),
    through: int = 2000,
) -> ChangeBatch:
    return ChangeBatch(
        through=Watermark(b"timeline", InstanceId(b"instance"), through),
        more=False,
        items=items,
        items_gone=gone,
        settings=settings,
        delivery_keys=keys,
    )


async def contents(kit: Kit, instance: InstanceId) -> dict[ItemId, ItemContent]:
    """What a later reader of the target finds."""
    page = await kit.endpoint.source(instance).read_seed(None, bytes_max=1 << 20, items_max=1000)
    assert page.done
    return {read.state.item_id: read for read in page.items}


async def read_back(kit: Kit, instance: InstanceId, item_id: ItemId) -> ItemContent | None:
    return (await contents(kit, instance)).get(item_id)


async def buried(kit: Kit, instance: InstanceId) -> dict[bytes, int]:
    """The tombstones of the target."""
    source = kit.endpoint.source(instance)
    start = attrs.evolve(await source.head(), modseq=0)
    feed = await source.read_feed(start, changes_max=10_000)
    return {gone.id: gone.modseq for gone in feed.items_gone}


# --- items --------------------------------------------------------------------------------------------------------


async def test_a_written_item_keeps_id_uid_modseq_and_everything_else(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    written = item(mailbox.inbox, uid=77, modseq=1234, flags=5)
    assert await target.write_items([written], 1) == ()
    assert await read_back(there, target_instance, written.state.item_id) == written
    assert (await target.summary()).head.modseq >= 1234


async def test_writing_twice_is_writing_once(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    written = [item(mailbox.inbox, uid=n) for n in (1, 2, 3)]
    await target.write_items(written, 1)
    before = await target.account()
    assert await target.write_items(written, 1) == ()
    assert await target.account() == before


async def test_a_state_with_a_lower_modseq_changes_nothing(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    old = item(mailbox.inbox)
    new = later(old, flags=9)
    await target.write_items([new], 1)
    await target.write_items([old], 1)
    assert await target.apply_changes(batch(old.state), 1) == ()
    assert await read_back(there, target_instance, old.state.item_id) == new


async def test_another_state_with_the_same_modseq_changes_nothing(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    first = item(mailbox.inbox)
    second = later(first, flags=9, modseq=first.state.modseq)
    await target.write_items([first], 1)
    await target.write_items([second], 1)
    assert await target.apply_changes(batch(second.state), 1) == ()
    assert await read_back(there, target_instance, first.state.item_id) == first


async def test_a_state_with_a_higher_modseq_replaces_the_one_there(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    old = item(mailbox.inbox)
    new = later(old, flags=9)
    await target.write_items([old], 1)
    await target.write_items([new], 1)
    assert await read_back(there, target_instance, old.state.item_id) == new
    assert (await target.summary()).items == 1


async def test_a_changed_state_needs_no_bytes_where_the_content_is_there(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    old = item(mailbox.inbox)
    new = later(old, flags=9, keywords=("urgent",))
    await target.write_items([old], 1)
    assert await target.apply_changes(batch(new.state), 1) == ()
    assert await read_back(there, target_instance, old.state.item_id) == new


async def test_a_folder_move_comes_with_its_new_uid(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    archive = await mailbox.client.create_folder("Archive")
    folder = next(f for f in await mailbox.source.read_hierarchy() if f.folder_id == archive)
    await target.apply_folders([FolderStep(StepKind.CREATE, folder)], 1)
    old = item(mailbox.inbox, uid=3)
    new = later(old, folder_id=archive, uid=8)
    await target.write_items([old], 1)
    assert await target.apply_changes(batch(new.state), 1) == ()
    assert await read_back(there, target_instance, old.state.item_id) == new
    assert await target.occupied_folders() == {archive}
    assert {f.folder_id: f.uidnext for f in await target.read_hierarchy()}[archive] >= 9


async def test_changes_of_items_without_bytes_are_asked_for(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    known, unknown = item(mailbox.inbox, uid=1), item(mailbox.inbox, uid=2)
    await target.write_items([known], 1)
    changes = batch(later(known).state, unknown.state)
    assert await target.apply_changes(changes, 1) == (unknown.state.item_id,)
    assert await target.apply_changes(changes, 1) == (unknown.state.item_id,)
    await target.write_items([unknown], 1)
    assert await target.apply_changes(changes, 1) == ()


async def test_other_content_under_the_same_id_is_asked_for_and_then_replaces(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    draft = item(mailbox.inbox, content=message(b"draft"))
    other = item(mailbox.inbox, content=message(b"edited"), modseq=1001)
    edited = ItemContent(other.state._replace(item_id=draft.state.item_id), other.content)
    await target.write_items([draft], 1)
    assert await target.apply_changes(batch(edited.state), 1) == (draft.state.item_id,)
    assert await read_back(there, target_instance, draft.state.item_id) == draft
    await target.write_items([edited], 1)
    assert await read_back(there, target_instance, draft.state.item_id) == edited


async def test_a_dead_item_is_gone_and_nothing_brings_it_back(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    written = item(mailbox.inbox)
    await target.write_items([written], 1)
    await target.apply_changes(batch(gone=(Gone(written.state.item_id, 1500),)), 1)
    for again in (written, later(written, modseq=1501)):
        assert await target.write_items([again], 1) == ()
        assert await target.apply_changes(batch(again.state), 1) == ()
    assert await contents(there, target_instance) == {}
    assert await buried(there, target_instance) == {written.state.item_id: 1500}


async def test_a_tombstone_that_comes_first_is_kept(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    unseen = item(mailbox.inbox)
    await target.apply_changes(batch(gone=(Gone(unseen.state.item_id, 1500),)), 1)
    assert await target.write_items([unseen], 1) == ()
    assert await target.apply_changes(batch(unseen.state), 1) == ()
    assert await contents(there, target_instance) == {}
    assert await buried(there, target_instance) == {unseen.state.item_id: 1500}


async def test_equal_copies_are_two_items(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    await target.write_items([item(mailbox.inbox, uid=1), item(mailbox.inbox, uid=2)], 1)
    account, recount = dict((await target.account()).digests), dict((await target.recount()).digests)
    assert account[mailbox.inbox].items == 2
    assert account[mailbox.inbox] == recount[mailbox.inbox]


async def test_the_head_reaches_what_was_applied(mailbox: Mailbox, target: Target) -> None:
    await target.apply_changes(batch(through=4321), 1)
    assert (await target.summary()).head.modseq >= 4321


async def test_a_clients_next_item_stands_beyond_everything_that_was_moved(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    await target.write_items([item(mailbox.inbox, uid=77, modseq=5000)], 1)
    await target.apply_changes(batch(through=6000), 1)
    await target.open(1)
    item_id = await there.client(target_instance).append(mailbox.inbox, message(b"new"))
    new = await read_back(there, target_instance, item_id)
    assert new is not None
    assert new.state.uid > 77
    assert new.state.modseq > 6000


# --- what a target does not take ----------------------------------------------------------------------------------


async def test_a_refused_item_is_reported_and_the_others_are_written(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    fine, refused = item(mailbox.inbox, uid=1), item(mailbox.inbox, uid=2)
    await there.refuse_item(target_instance, refused.state.item_id)
    (bad,) = await target.write_items([refused, fine], 1)
    assert bad.state.item_id == refused.state.item_id
    assert bad.kind
    assert bad.why
    assert list(await contents(there, target_instance)) == [fine.state.item_id]


async def test_bytes_that_are_not_what_the_hash_says_are_refused(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    written = item(mailbox.inbox, content=message(b"these bytes"))
    (bad,) = await target.write_items([ItemContent(written.state, message(b"those bytes"))], 1)
    assert (bad.state.item_id, bad.kind) == (written.state.item_id, "CorruptItem")
    assert await contents(there, target_instance) == {}


async def test_a_uid_that_is_taken_is_not_freed(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    first, second = item(mailbox.inbox, uid=5), item(mailbox.inbox, uid=5)
    await target.write_items([first], 1)
    assert await target.apply_changes(batch(second.state), 1) == (second.state.item_id,)
    (bad,) = await target.write_items([second], 1)
    assert bad.state.item_id == second.state.item_id
    assert list(await contents(there, target_instance)) == [first.state.item_id]
    third = item(mailbox.inbox, uid=6)
    await target.write_items([third], 1)
    onto_the_first = later(third, uid=5).state
    assert await target.apply_changes(batch(onto_the_first), 1) == (third.state.item_id,)
    assert await contents(there, target_instance) == {i.state.item_id: i for i in (first, third)}


async def test_uids_are_given_round_where_the_folder_has_another_uidvalidity(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    """One item a batch, so that each UID is another item's when it is given. The last is not told, so keeps its own."""
    written = [item(mailbox.inbox, uid=uid) for uid in (1, 2, 3, 4)]
    await target.write_items(written, 1)
    folder = next(f for f in await mailbox.source.read_hierarchy() if f.folder_id == mailbox.inbox)
    rebuilt = attrs.evolve(folder, uidvalidity=folder.uidvalidity + 1, modseq=1500)
    await target.apply_folders([FolderStep(StepKind.UPDATE, rebuilt)], 1)
    renumbered = [later(one, uid=uid, modseq=1500 + uid) for one, uid in zip(written, (2, 3, 1), strict=False)]
    for one in renumbered:
        assert await target.apply_changes(batch(one.state), 1) == ()
    assert await contents(there, target_instance) == {one.state.item_id: one for one in (*renumbered, written[3])}
    again = later(written[3], uid=1, modseq=1600)
    assert await target.apply_changes(batch(again.state), 1) == (again.state.item_id,)


async def test_an_item_of_a_folder_that_is_not_there_yet_is_left_out_and_comes_later(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    archive = await mailbox.client.create_folder("Archive")
    folder = next(f for f in await mailbox.source.read_hierarchy() if f.folder_id == archive)
    early, known = item(archive, uid=1), item(mailbox.inbox, uid=1)
    moved = later(known, folder_id=archive, uid=2)
    await target.write_items([known], 1)
    assert await target.write_items([early, moved], 1) == ()
    assert set(await target.apply_changes(batch(early.state, moved.state), 1)) == {
        early.state.item_id,
        known.state.item_id,
    }
    assert await contents(there, target_instance) == {known.state.item_id: known}
    await target.apply_folders([FolderStep(StepKind.CREATE, folder)], 1)
    await target.write_items([early, moved], 1)
    assert await contents(there, target_instance) == {early.state.item_id: early, known.state.item_id: moved}


# --- settings and delivery keys -----------------------------------------------------------------------------------


async def test_of_two_states_of_a_setting_the_later_one_stays(mailbox: Mailbox, target: Target) -> None:
    await target.apply_changes(batch(settings=(SettingState("rules", "new", 9), SettingState("old", None, 9))), 1)
    await target.apply_changes(batch(settings=(SettingState("rules", "old", 8), SettingState("old", "x", 8))), 1)
    assert (await target.account()).settings == (("rules", "new"),)


async def test_a_setting_beyond_the_batchs_watermark_still_raises_the_head(mailbox: Mailbox, target: Target) -> None:
    """As the listing brings it: with the states of later than where the feed will be read from."""
    await target.apply_changes(batch(settings=(SettingState("rules", "x", 5000),), through=10), 1)
    assert (await target.summary()).head.modseq >= 5000


async def test_a_delivery_from_before_the_move_is_not_accepted_again_after_it(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId
) -> None:
    await mailbox.client.deliver(message(b"mail"), b"key")
    await seed(mailbox.source, target, 1)
    await target.open(1)
    client = there.client(target_instance)
    assert await client.deliver(message(b"mail"), b"key") is None
    assert await client.deliver(message(b"other mail"), b"key") is not None


# --- folders ------------------------------------------------------------------------------------------------------


def folder(name: str, parent_id: FolderId | None = None, *, modseq: int = 10) -> FolderState:
    return FolderState(FolderId(new_id()), parent_id, name, modseq=modseq, uidvalidity=42, uidnext=7)


async def tree_of(target: Target) -> dict[FolderId, FolderState]:
    return {state.folder_id: state for state in await target.read_hierarchy()}


async def test_folders_keep_every_attribute_they_are_given(mailbox: Mailbox, target: Target) -> None:
    sent = attrs.evolve(folder("Sent"), special_use="\\Sent", subscribed=False, attributes={"color": "red"})
    hidden = attrs.evolve(folder("Recoverable", sent.folder_id), hidden=True)
    await target.apply_folders([FolderStep(StepKind.CREATE, sent), FolderStep(StepKind.CREATE, hidden)], 1)
    tree = await tree_of(target)
    assert (tree[sent.folder_id], tree[hidden.folder_id]) == (sent, hidden)
    changed = attrs.evolve(sent, special_use="", subscribed=True, attributes={}, modseq=20, uidnext=9)
    await target.apply_folders([FolderStep(StepKind.UPDATE, changed)], 1)
    assert (await tree_of(target))[sent.folder_id] == changed
    assert (await target.summary()).head.modseq >= 20


async def test_a_folder_moves_with_all_below_it_and_its_items(mailbox: Mailbox, target: Target) -> None:
    outer, inner, other = folder("A"), folder("B"), folder("C")
    inner = attrs.evolve(inner, parent_id=outer.folder_id)
    await target.apply_folders([FolderStep(StepKind.CREATE, made) for made in (outer, inner, other)], 1)
    await target.write_items([item(inner.folder_id)], 1)
    moved = attrs.evolve(outer, parent_id=other.folder_id, name="D")
    await target.apply_folders([FolderStep(StepKind.MOVE, moved)], 1)
    tree = await tree_of(target)
    assert tree[outer.folder_id] == moved
    assert tree[inner.folder_id].parent_id == outer.folder_id
    assert await target.occupied_folders() == {inner.folder_id}


async def test_a_swap_by_a_parked_name_taken_twice_ends_the_same(mailbox: Mailbox, target: Target) -> None:
    first, second = folder("A"), folder("B")
    await target.apply_folders([FolderStep(StepKind.CREATE, made) for made in (first, second)], 1)
    steps = [
        FolderStep(StepKind.MOVE, attrs.evolve(first, name="parked")),
        FolderStep(StepKind.MOVE, attrs.evolve(second, name="A")),
        FolderStep(StepKind.MOVE, attrs.evolve(first, name="B")),
    ]
    for _ in range(2):
        await target.apply_folders(steps, 1)
        tree = await tree_of(target)
        assert (tree[first.folder_id].name, tree[second.folder_id].name) == ("B", "A")


async def test_repeated_steps_do_no_harm(mailbox: Mailbox, target: Target) -> None:
    made, gone = folder("A"), folder("B")
    renamed = attrs.evolve(made, name="C")
    for _ in range(2):
        await target.apply_folders([FolderStep(StepKind.CREATE, gone)], 1)
        await target.apply_folders([FolderStep(StepKind.REMOVE, gone)] * 2, 1)
        await target.apply_folders([FolderStep(StepKind.CREATE, made)], 1)
        await target.apply_folders([FolderStep(StepKind.MOVE, renamed)] * 2, 1)
    tree = await tree_of(target)
    assert tree[made.folder_id] == renamed
    assert gone.folder_id not in tree


async def test_a_step_on_a_folder_that_is_not_there_does_nothing(mailbox: Mailbox, target: Target) -> None:
    before = await tree_of(target)
    absent = folder("A")
    await target.apply_folders([FolderStep(kind, absent) for kind in (StepKind.MOVE, StepKind.UPDATE)], 1)
    assert await tree_of(target) == before


async def test_uidnext_of_a_folder_never_falls(mailbox: Mailbox, target: Target) -> None:
    made = folder("A")
    await target.apply_folders([FolderStep(StepKind.CREATE, made)], 1)
    await target.write_items([item(made.folder_id, uid=30)], 1)
    await target.apply_folders([FolderStep(StepKind.UPDATE, attrs.evolve(made, uidnext=8, modseq=11))], 1)
    assert (await tree_of(target))[made.folder_id].uidnext == 31


async def test_what_holds_something_is_not_removed(mailbox: Mailbox, target: Target) -> None:
    outer = folder("A")
    inner = folder("B", outer.folder_id)
    await target.apply_folders([FolderStep(StepKind.CREATE, made) for made in (outer, inner)], 1)
    await target.write_items([item(inner.folder_id)], 1)
    before = await tree_of(target)
    for holder in (outer, inner):
        with pytest.raises(RequestRefused):
            await target.apply_folders([FolderStep(StepKind.REMOVE, holder)], 1)
    assert await tree_of(target) == before


async def test_a_name_that_is_taken_is_not_freed(mailbox: Mailbox, target: Target) -> None:
    first, second = folder("A"), folder("B")
    await target.apply_folders([FolderStep(StepKind.CREATE, made) for made in (first, second)], 1)
    before = await tree_of(target)
    for step in (
        FolderStep(StepKind.MOVE, attrs.evolve(second, name="A")),
        FolderStep(StepKind.CREATE, folder("A")),
    ):
        with pytest.raises(RequestRefused):
            await target.apply_folders([step], 1)
    assert await tree_of(target) == before


async def test_a_folder_is_not_put_inside_itself(mailbox: Mailbox, target: Target) -> None:
    outer = folder("A")
    inner = folder("B", outer.folder_id)
    await target.apply_folders([FolderStep(StepKind.CREATE, made) for made in (outer, inner)], 1)
    before = await tree_of(target)
    for below in (outer, inner):
        moved = attrs.evolve(outer, parent_id=below.folder_id)
        with pytest.raises(RequestRefused):
            await target.apply_folders([FolderStep(StepKind.MOVE, moved)], 1)
    assert await tree_of(target) == before


async def test_folders_are_occupied_while_they_hold_a_live_item(mailbox: Mailbox, target: Target) -> None:
    assert await target.occupied_folders() == frozenset()
    written = item(mailbox.inbox)
    await target.write_items([written], 1)
    assert await target.occupied_folders() == {mailbox.inbox}
    await target.apply_changes(batch(gone=(Gone(written.state.item_id, 1500),)), 1)
    assert await target.occupied_folders() == frozenset()


async def test_source_and_target_have_one_digest_after_a_plain_copy(mailbox: Mailbox, target: Target) -> None:
    for n in range(10):
        await mailbox.client.append(mailbox.inbox, message(b"item %d" % (n // 2)), flags=n)
    await mailbox.client.set_setting("rules", "[]")
    assert await digest_of(mailbox.source) != await digest_of(target)
    await seed(mailbox.source, target, 1)
    assert await digest_of(mailbox.source) == await digest_of(target)
