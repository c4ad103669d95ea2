"""The two digests: golden values, and the same number as the engine's own."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moverq.model.change import ItemState
from moverq.model.digest import item_digest
from moverq.model.ids import FolderId as MovedFolderId
from moverq.model.ids import ItemId as MovedItemId
from store.digest import MODULUS, equality_digest, instance_digest
from store.ids import FolderId, ItemId
from store.records import ItemRow

ROW = ItemRow(
    ItemId(b"i" * 16), FolderId(b"f" * 16), 3, 9, 1_700_000_000_000, 1234, b"h" * 16, 1, 128, 5,
    ("$Forwarded", "a"), "IPM.Note", (("a", "ä"), ("z", "")),
)  # fmt: skip


def test_the_digests_do_not_change_silently() -> None:
    equality = equality_digest(ROW)
    assert f"{equality:032x}" == "204076db4b08d6d82319ba6632738700"
    assert f"{instance_digest(ROW, equality):032x}" == "85bc4c177dc22633a890de5f442be2c1"
    assert 0 <= equality < MODULUS


def test_equality_sees_what_both_sides_keep_and_nothing_else() -> None:
    same: list[dict[str, Any]] = [
        {"uid": 4},
        {"modseq": 10},
        {"segment": 9},
        {"offset": 0},
        {"item_id": b"j" * 16},
        {"folder_id": b"g" * 16},
    ]
    other: list[dict[str, Any]] = [
        {"content_hash": b"x" * 16},
        {"received_ms": 1},
        {"size": 1},
        {"flags": 1},
        {"keywords": ("a",)},
        {"item_class": "IPM.Task"},
        {"properties": ()},
    ]
    assert {equality_digest(ROW._replace(**change)) for change in same} == {equality_digest(ROW)}
    assert len({equality_digest(ROW._replace(**change)) for change in [*other, {}]}) == len(other) + 1


def test_instance_sees_uid_and_modseq_too() -> None:
    rows = [ROW, ROW._replace(uid=4), ROW._replace(modseq=10), ROW._replace(flags=1)]
    assert len({instance_digest(row, equality_digest(row)) for row in rows}) == len(rows)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@given(
    content_hash=st.binary(min_size=16, max_size=16),
    received_ms=st.integers(-(1 << 62), 1 << 62),
    size=st.integers(0, 1 << 31),
    flags=st.integers(0, (1 << 32) - 1),
    keywords=st.sets(WORDS),
    item_class=WORDS,
    properties=st.dictionaries(WORDS, WORDS),
)
def test_it_is_the_engines_own_number(
    content_hash: bytes,
    received_ms: int,
    size: int,
    flags: int,
    keywords: set[str],
    item_class: str,
    properties: dict[str, str],
) -> None:
    row = ROW._replace(
        content_hash=content_hash,
        received_ms=received_ms,
        size=size,
        flags=flags,
        keywords=tuple(sorted(keywords)),
        item_class=item_class,
        properties=tuple(sorted(properties.items())),
    )
    state = ItemState(
        item_id=MovedItemId(row.item_id),
        folder_id=MovedFolderId(row.folder_id),
        uid=row.uid,
        modseq=row.modseq,
        received_ms=received_ms,
        size=size,
        content_hash=content_hash,
        flags=flags,
        keywords=row.keywords,
        item_class=item_class,
        properties=properties,
    )
    assert equality_digest(row) == item_digest(state)
