"""Two catalogues compared: nothing where both say the same, and each kind of difference in words."""

from pathlib import Path

import apsw
import pytest

from store.catalogue.compare import differences
from store.catalogue.schema import open_catalogue
from store.layout import Layout
from tests.support.store_world import append, make_mailbox, opened, replayed


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    async with opened(tmp_path / "db") as database:
        mailbox = await make_mailbox(database)
        first, second = await append(database, b"one", b"two")
        await mailbox.create_folder(None, "Work")
        await mailbox.change_flags([first], add=1, add_keywords=["$Forwarded"])
        await mailbox.purge([second])
        await mailbox.deliver(b"three", key=b"key")
        await mailbox.set_setting("retention_days", 3)
    return tmp_path / "db"


def compared(path: Path, damage: str) -> list[str]:
    live, other = open_catalogue(Layout(path).catalogue), replayed(path)
    other.execute(damage)
    try:
        return differences(live, other)
    finally:
        live.close()
        other.close()


async def test_a_replayed_catalogue_says_the_same(path: Path) -> None:
    assert compared(path, "SELECT 1") == []


async def test_row_numbers_do_not_matter(path: Path) -> None:
    assert compared(path, "UPDATE item SET no = no + 100") == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE meta SET offset = offset + 512", "the catalogue: offset "),
        ("UPDATE mailbox SET token = 7", "mailbox alice___________: token 0 live, 7 replayed"),
        ("UPDATE folder SET items = 9 WHERE name = 'INBOX'", "items 2 live, 9 replayed"),
        ("DELETE FROM folder WHERE name = 'Work'", "is in the live catalogue only"),
        ("UPDATE item SET flags = 4", "flags "),
        ("UPDATE item SET keywords = '[]' WHERE keywords != '[]'", "keywords '[\"$Forwarded\"]' live, '[]' replayed"),
        ("DELETE FROM tombstone", "tombstone "),
        ("UPDATE setting SET value = NULL", "setting 'retention_days' of mailbox alice___________: value '3' live"),
        ("DELETE FROM delivery_key", "delivery key key "),
        (
            "INSERT INTO setting VALUES (1, 'x-more', '1', 1)",
            "setting 'x-more' of mailbox alice___________ is in the re",
        ),
    ],
)
async def test_each_kind_of_difference_is_said(path: Path, damage: str, words: str) -> None:
    assert any(words in difference for difference in compared(path, damage))


async def test_no_more_than_so_many_are_said(path: Path) -> None:
    live, other = open_catalogue(Layout(path).catalogue), replayed(path)
    other.execute("DELETE FROM item")
    assert len(differences(live, other, most=1)) == 1
    live.close()
    other.close()


async def test_both_sides_are_only_read(path: Path) -> None:
    live, other = open_catalogue(Layout(path).catalogue), replayed(path)
    differences(live, other)
    assert isinstance(live, apsw.Connection)
    assert live.get_autocommit()
    assert other.get_autocommit()
    live.close()
    other.close()
