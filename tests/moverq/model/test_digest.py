"""The equality digest: equal mailboxes share it, whatever else they share or not."""

from collections.abc import Callable
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moverq.model.change import FolderState, ItemState
from moverq.model.digest import MODULUS, FolderDigest, folder_paths, item_digest, mailbox_digest
from moverq.model.ids import FolderId, ItemId, new_id

INBOX_ID, ARCHIVE_ID = FolderId(b"i" * 16), FolderId(b"a" * 16)

ITEM = ItemState(
    item_id=ItemId(b"1" * 16),
    folder_id=INBOX_ID,
    uid=1,
    modseq=1,
    received_ms=1_700_000_000_000,
    size=5,
    content_hash=b"h" * 16,
    flags=1,
    keywords=("$Junk", "work"),
    item_class="IPM.Note",
    properties={"a": "1", "b": "2"},
)
INBOX = FolderState(INBOX_ID, None, "INBOX", modseq=1, uidvalidity=1, uidnext=2)
ARCHIVE = FolderState(ARCHIVE_ID, INBOX_ID, "Archive", modseq=2, uidvalidity=2, uidnext=1, attributes={"a": "1"})
TREE = (INBOX, ARCHIVE)


def items() -> st.SearchStrategy[list[ItemState]]:
    """Items of which many are equal."""
    return st.lists(st.integers(0, 3).map(lambda n: ITEM._replace(size=n)), max_size=12)


def digest_of(items: list[ItemState]) -> FolderDigest:
    digest = FolderDigest()
    for item in items:
        digest = digest.plus(item)
    return digest


# --- items --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"received_ms": 1_700_000_000_001},
        {"size": 6},
        {"content_hash": b"H" * 16},
        {"flags": 0},
        {"keywords": ("$Junk",)},
        {"keywords": ("$Junkwork",)},
        {"item_class": "IPM.Appointment"},
        {"properties": {"a": "2", "b": "1"}},
        {"properties": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_both_sides_keep_is_in_an_items_digest(change: dict[str, object]) -> None:
    assert item_digest(ITEM._replace(**change)) != item_digest(ITEM)  # type: ignore[arg-type]


def test_where_an_item_lies_and_under_which_number_is_not() -> None:
    elsewhere = ITEM._replace(item_id=ItemId(new_id()), folder_id=ARCHIVE_ID, uid=9, modseq=9)
    assert item_digest(elsewhere) == item_digest(ITEM)


def test_the_order_of_properties_is_not_either() -> None:
    assert item_digest(ITEM._replace(properties={"b": "2", "a": "1"})) == item_digest(ITEM)


# --- folders ------------------------------------------------------------------------------------------------------


@given(items(), st.randoms(use_true_random=False))
def test_a_folders_digest_does_not_depend_on_the_order(held: list[ItemState], random: Random) -> None:
    shuffled = random.sample(held, len(held))
    assert digest_of(shuffled) == digest_of(held)


@given(items(), items())
def test_taking_items_out_again_undoes_putting_them_in(held: list[ItemState], others: list[ItemState]) -> None:
    digest = digest_of(held + others)
    for item in others:
        digest = digest.minus(item)
    assert digest == digest_of(held)


@given(items())
def test_a_folders_digest_counts_items_and_bytes_and_stays_below_its_modulus(held: list[ItemState]) -> None:
    digest = digest_of(held)
    assert (digest.items, digest.bytes) == (len(held), sum(item.size for item in held))
    assert 0 <= digest.total < MODULUS


def test_equal_copies_do_not_cancel() -> None:
    """With XOR a folder with one item twice would have the sum of an empty one."""
    twice = digest_of([ITEM, ITEM])
    assert twice.total != 0
    assert twice.total != digest_of([ITEM]).total


def test_the_last_item_taken_out_leaves_nothing() -> None:
    assert FolderDigest().plus(ITEM).minus(ITEM) == FolderDigest()


# --- paths --------------------------------------------------------------------------------------------------------


def test_a_folders_path_is_the_names_from_the_top() -> None:
    assert folder_paths(reversed(TREE)) == {INBOX_ID: ("INBOX",), ARCHIVE_ID: ("INBOX", "Archive")}


def test_a_folder_inside_itself_has_no_path() -> None:
    with pytest.raises(ValueError, match="inside itself"):
        folder_paths([attrs.evolve(INBOX, parent_id=ARCHIVE_ID), ARCHIVE])


def test_a_folder_without_its_parent_has_no_path() -> None:
    with pytest.raises(ValueError, match="unknown parent"):
        folder_paths([ARCHIVE])


# --- the mailbox --------------------------------------------------------------------------------------------------


def whole(
    tree: tuple[FolderState, ...] = TREE,
    digests: dict[FolderId, FolderDigest] | None = None,
    settings: dict[str, str] | None = None,
) -> str:
    held = {INBOX_ID: digest_of([ITEM])} if digests is None else digests
    return mailbox_digest(tree, held, {"rules": "{}"} if settings is None else settings)


def test_a_mailboxs_digest_is_64_hexadecimal_digits() -> None:
    assert len(bytes.fromhex(whole())) == 32


def test_ids_uids_and_modseqs_of_folders_are_not_in_a_mailboxs_digest() -> None:
    """A server that names its own folders holds the same mailbox."""
    theirs, below = FolderId(new_id()), FolderId(new_id())
    tree = (
        attrs.evolve(ARCHIVE, folder_id=below, parent_id=theirs, modseq=7, uidvalidity=7),
        attrs.evolve(INBOX, folder_id=theirs, uidnext=70),
    )
    assert whole(tree, {theirs: digest_of([ITEM])}) == whole()


def test_a_folder_without_a_digest_is_an_empty_one() -> None:
    assert whole(digests={INBOX_ID: digest_of([ITEM]), ARCHIVE_ID: FolderDigest()}) == whole()


@pytest.mark.parametrize(
    "other",
    [
        lambda: whole(digests={ARCHIVE_ID: digest_of([ITEM])}),
        lambda: whole(digests={INBOX_ID: digest_of([ITEM, ITEM])}),
        lambda: whole(settings={}),
        lambda: whole(settings={"rules": "[]"}),
        lambda: whole((INBOX,)),
        lambda: whole((INBOX, attrs.evolve(ARCHIVE, name="archive"))),
        lambda: whole((INBOX, attrs.evolve(ARCHIVE, parent_id=None))),
        lambda: whole((INBOX, attrs.evolve(ARCHIVE, parent_id=None, name="INBOX/Archive"))),
        lambda: whole((INBOX, attrs.evolve(ARCHIVE, special_use="\\Archive"))),
        lambda: whole((INBOX, attrs.evolve(ARCHIVE, subscribed=False))),
        lambda: whole((INBOX, attrs.evolve(ARCHIVE, hidden=True))),
        lambda: whole((INBOX, attrs.evolve(ARCHIVE, attributes={}))),
    ],
    ids=[
        "item in another folder",
        "item twice",
        "no setting",
        "other setting",
        "no folder",
        "other name",
        "other parent",
        "a name like a path",
        "special use",
        "subscription",
        "hidden",
        "attributes",
    ],
)
def test_everything_else_is(other: Callable[[], str]) -> None:
    assert other() != whole()
