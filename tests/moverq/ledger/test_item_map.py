import errno
import random
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from moverq.errors import StaleToken
from moverq.flow import folders
from moverq.ledger.codec import Codec
from moverq.ledger.item_map import Blank, ItemMap
from moverq.model.change import BadItem, FolderState, Gone, ItemState, SettingState
from moverq.model.digest import FolderDigest
from moverq.model.ids import FolderId, ItemId
from tests.support.move_world import Inline

A, B = FolderId(b"folder-a--------"), FolderId(b"folder-b--------")


def item(n: int, *, modseq: int = 1, folder: FolderId = A, flags: int = 0) -> ItemState:
    item_id = ItemId(n.to_bytes(16, "big"))
    return ItemState(item_id, folder, n, modseq, 1000 + n, 10 * n, b"h%d" % n, flags, ())


@pytest.fixture
async def item_map(tmp_path: Path) -> AsyncIterator[ItemMap]:
    made = ItemMap(tmp_path / "moves" / "m.sqlite", Inline(), Codec(), Blank())
    await made.take_over(3)
    yield made
    await made.aclose()


async def test_the_sums_are_those_of_the_newest_states(item_map: ItemMap) -> None:
    await item_map.record(3, carried=[item(1), item(2)])
    await item_map.record(3, carried=[item(1, modseq=5, folder=B, flags=1), item(2, modseq=1, flags=9)])
    account = await item_map.account()
    assert account.digests[A] == FolderDigest().plus(item(2))
    assert account.digests[B] == FolderDigest().plus(item(1, modseq=5, folder=B, flags=1))


async def test_dead_absorbs_also_before_life(item_map: ItemMap) -> None:
    await item_map.record(3, gone=[Gone(item(1).item_id, 2)])
    await item_map.record(3, carried=[item(1, modseq=9), item(2)])
    await item_map.record(3, gone=[Gone(item(2).item_id, 1)])
    assert (await item_map.account()).digests.get(A, FolderDigest()) == FolderDigest()
    assert await item_map.is_sound()


async def test_a_bad_item_counts_apart_until_it_is_carried(item_map: ItemMap) -> None:
    await item_map.record(3, bad=[BadItem(item(1), "CorruptItem", "why")], carried=[item(2)])
    account = await item_map.account()
    assert (account.bad[A], account.digests[A]) == (FolderDigest().plus(item(1)), FolderDigest().plus(item(2)))
    assert (await item_map.bad_count(), await item_map.bad_items()) == (1, (item(1).item_id,))
    await item_map.record(3, carried=[item(1)])
    await item_map.record(3, bad=[BadItem(item(1), "CorruptItem", "why")])
    assert await item_map.bad_count() == 0


async def test_order_and_repetition_do_not_matter(tmp_path: Path) -> None:
    rng = random.Random(4)
    states = [item(n, modseq=m, folder=rng.choice((A, B)), flags=m) for n in range(8) for m in range(1, 5)]
    dead = [Gone(item(n).item_id, 9) for n in range(0, 8, 3)]
    accounts = []
    for round_ in range(6):
        made = ItemMap(tmp_path / f"{round_}.sqlite", Inline(), Codec(), Blank())
        await made.take_over(1)
        events: list[ItemState | Gone] = [*states, *dead, *rng.sample(states, 9)]
        rng.shuffle(events)
        while events:
            some = [events.pop() for _ in range(min(len(events), rng.randrange(1, 6)))]
            newest: dict[bytes, ItemState] = {}
            for state in some:
                if isinstance(state, ItemState) and newest.get(state.item_id, state).modseq <= state.modseq:
                    newest[state.item_id] = state
            await made.record(1, carried=list(newest.values()))
            await made.record(1, gone=[g for g in some if isinstance(g, Gone)])
        assert await made.is_sound()
        account = await made.account()
        accounts.append({k: v for k, v in account.digests.items() if v.items})
        await made.aclose()
    assert all(account == accounts[0] for account in accounts)


async def test_another_token_writes_nothing(item_map: ItemMap) -> None:
    await item_map.take_over(4)
    with pytest.raises(StaleToken):
        await item_map.record(3, carried=[item(1)])
    with pytest.raises(StaleToken):
        await item_map.take_over(3)
    assert (await item_map.account()).digests == {}


async def test_tree_and_settings_are_kept_with_it(item_map: ItemMap) -> None:
    tree = (FolderState(A, None, "INBOX", 3, 4, 5, special_use="\\Inbox", attributes={"a": "b"}),)
    settings = [SettingState("rules", "[1]", 5), SettingState("quota", "9", 5)]
    await item_map.record(3, hierarchy=tree, settings=settings)
    await item_map.record(3, settings=[SettingState("rules", "old", 4), SettingState("quota", None, 6)])
    account = await item_map.account()
    assert account.settings == (("rules", "[1]"),)
    assert [attrs.evolve(f, attributes=dict(f.attributes)) for f in account.folders] == list(tree)


async def test_a_listing_marks_what_it_has_seen(item_map: ItemMap) -> None:
    await item_map.record(3, carried=[item(1), item(2), item(3)])
    await item_map.record(3, carried=[item(2)], seen=2)
    await item_map.record(3, gone=[Gone(item(3).item_id, 4)])
    assert await item_map.unseen(2, after=b"", limit=10) == (item(1).item_id,)
    assert await item_map.unknown([item(n).item_id for n in (1, 3, 4)]) == (item(3).item_id, item(4).item_id)


async def test_a_rollback_adopts_the_rows_by_its_own_token(item_map: ItemMap, tmp_path: Path) -> None:
    await item_map.record(3, carried=[item(1), item(2)], settings=[SettingState("rules", "[]", 1)])
    child = ItemMap(tmp_path / "child.sqlite", Inline(), Codec(), Blank())
    await child.take_over(7)
    with pytest.raises(StaleToken):
        await child.adopt(6, item_map)
    await child.adopt(7, item_map)
    assert (await child.account()) == (await item_map.account())
    assert await child.is_sound()
    await child.aclose()


async def test_a_closed_map_has_all_when_it_is_opened_again_with_a_log_left_beside_it_or_not(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    for items, is_left in ((5, True), (20_000, False)):
        made = ItemMap(path, Inline(), Codec(), Blank())
        await made.take_over(3)
        await made.record(3, carried=[item(n) for n in range(items)])
        await made.aclose()
        assert await trio.Path(f"{path}-wal").exists() == is_left
        again = ItemMap(path, Inline(), Codec(), Blank())
        assert (await again.account()).digests[A].items == items
        assert await again.is_sound()
        await again.aclose()


async def test_maps_begin_as_copies_of_one_blank_and_stay_apart(tmp_path: Path) -> None:
    blank = Blank()
    for number in range(3):
        made = ItemMap(tmp_path / "moves" / f"{number}.sqlite", Inline(), Codec(), blank)
        await made.take_over(number + 1)
        assert not (await made.account()).digests
        await made.record(number + 1, carried=[item(n) for n in range(1, number + 2)])
        await made.aclose()
    for number in range(3):
        again = ItemMap(tmp_path / "moves" / f"{number}.sqlite", Inline(), Codec(), Blank())
        assert (await again.account()).digests[A].items == number + 1
        await again.aclose()
    names = {path.name.partition(".")[0] for path in (tmp_path / "moves").iterdir()}
    assert names == {"0", "1", "2"}, "nothing else is left there"


async def test_a_map_that_two_begin_at_once_is_one(tmp_path: Path) -> None:
    """Both have looked and seen none: the second one's blank does not take the place of what the first has written."""
    first, second = (ItemMap(tmp_path / "m.sqlite", Inline(), Codec(), Blank()) for _ in range(2))
    await first.take_over(3)
    await first.record(3, carried=[item(1)])
    second._blank.place(second.path)
    with pytest.raises(StaleToken):
        await second.take_over(2)
    assert (await second.account()).digests[A].items == 1
    await first.aclose()
    await second.aclose()


async def test_a_file_system_that_makes_no_file_before_its_name_has_maps_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(folders, "place_file", refuse)
    made = ItemMap(tmp_path / "moves" / "m.sqlite", Inline(), Codec(), Blank())
    await made.take_over(3)
    await made.record(3, carried=[item(1)])
    assert (await made.account()).digests[A].items == 1
    await made.aclose()
