"""A page of a mirror for a seed: what fits, and no more of the file read than that."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moverq.endpoints.base import GuardMode
from moverq.endpoints.mirrored import intents
from moverq.endpoints.mirrored import mirror as mirror_module
from moverq.endpoints.mirrored.intents import Placed
from moverq.endpoints.mirrored.mirror import FolderRow, Mirror
from moverq.endpoints.mirrored.normal_form import content_hash
from moverq.model.change import FolderState, ItemContent, ItemState
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id

FOLDER = FolderId(new_id())
TOKEN = 1


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror.make(
        tmp_path / "mirror.sqlite",
        mailbox_id=MailboxId(new_id()),
        instance=InstanceId(new_id()),
        user="ada",
        mode=GuardMode.SEALED,
        token=TOKEN,
    )
    with made.changing():
        made.put_folder(FolderRow(state=FolderState(FOLDER, None, "INBOX", 1, 1, 1), wire=b"INBOX", server_validity=1))
    yield made
    made.close()


def put(mirror: Mirror, sizes: Sequence[int]) -> None:
    """Items of these sizes are at the server, and nothing else is."""
    with mirror.changing():
        mirror.db.execute("DELETE FROM items")
        mirror.db.execute("DELETE FROM sums")
    items = []
    for uid, size in enumerate(sizes, 1):
        content = b"x" * size
        state = ItemState(ItemId(new_id()), FOLDER, uid, uid, uid * 1000, size, content_hash(content), 0, ())
        items.append(ItemContent(state, content))
    intents.merge_items(mirror, items, TOKEN, intent=7, item_bytes_max=None, can_move=True)
    intents.note_placed(mirror, [Placed(item.state.item_id, item.state.uid) for item in items], TOKEN)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 4), st.integers(1, 20))
def test_pages_hold_every_item_once_in_order_and_what_fits(
    mirror: Mirror, sizes: list[int], items_max: int, bytes_max: int
) -> None:
    put(mirror, sizes)
    found: list[int] = []
    after, done = 0, False
    while not done:
        page, done = mirror.seed_rows(after, items_max=items_max, bytes_max=bytes_max)
        held = [row.state.size for row in page]
        assert len(held) <= items_max
        assert len(held) <= 1 or sum(held) <= bytes_max
        assert held or done
        following = sizes[len(found) + len(held) :]
        if following and len(held) < items_max:
            assert sum(held) + following[0] > bytes_max, "the next one would have fitted"
        found += held
        after = page[-1].seq if page else after
    assert found == sizes
    assert sum(n for _, n, _, _ in mirror._all_sums()) == len(sizes)


def test_what_was_read_of_an_item_that_went_is_not_noted_of_the_one_that_has_its_row(mirror: Mirror) -> None:
    put(mirror, [3])
    (was,), _ = mirror.seed_rows(0, items_max=9, bytes_max=99)
    put(mirror, [5])
    (now,), _ = mirror.seed_rows(0, items_max=9, bytes_max=99)
    assert now.seq == was.seq
    before = list(mirror._all_sums())
    mirror.note_read([(was, was.state._replace(size=3, content_hash=b"another"))])
    assert mirror.seed_rows(0, items_max=9, bytes_max=99)[0] == [now]
    assert list(mirror._all_sums()) == before


def test_a_page_is_read_up_to_the_first_item_that_does_not_fit(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    put(mirror, [10] * 50)
    read = 0

    def located(row: Sequence[Any], really: Any = mirror_module.located) -> Any:
        nonlocal read
        read += 1
        return really(row)

    monkeypatch.setattr(mirror_module, "located", located)
    page, done = mirror.seed_rows(0, items_max=50, bytes_max=45)
    assert (len(page), done, read) == (4, False, 5)
