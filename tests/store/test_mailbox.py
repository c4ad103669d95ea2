"""Every verb of a client: what is true afterwards, what is refused, and what nobody's verb changes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import store
from store.database import Database
from store.limits import (
    FOLDER_DEPTH_MAX,
    FOLDER_NAME_BYTES_MAX,
    ITEMS_PER_VERB_MAX,
    KEYWORD_BYTES_MAX,
    SETTING_BYTES_MAX,
)
from store.names import DELETED_FROM, DELETED_MS
from tests.support.store_world import (
    ALICE,
    BOB,
    START_MS,
    Clock,
    append,
    check_sound,
    contents,
    folder_named,
    inbox_of,
    make_mailbox,
)


@pytest.fixture(autouse=True)
async def sound(database: Database, tmp_path: Path) -> AsyncIterator[None]:
    """After every test: the sums add up, and the log says what the catalogue says."""
    yield
    check_sound(tmp_path / "db")


async def rows_of(database: Database, *item_ids: store.ItemId) -> list[store.ItemRow]:
    return await database.find(ALICE, list(item_ids))


async def head(database: Database) -> int:
    return (await database.info(ALICE)).head


async def folder_names(database: Database) -> set[str]:
    _, folders, _ = await database.account(ALICE)
    return {folder.name for folder in folders}


# ---- items


async def test_an_append_keeps_bytes_flags_keywords_class_properties_and_order(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    items = [
        store.NewItem(
            content=b"\0\xff\r\n raw",
            received_ms=5,
            flags=3,
            keywords=["b", "a", "b"],
            item_class="IPM.Appointment",
            properties={"z": "1", "a": "ä"},
        ),
        store.NewItem(content=b"", received_ms=-1),
    ]
    added = await mailbox.append(inbox, items)
    assert [one.uid for one in added] == [1, 2]
    first, second = await rows_of(database, *(one.item_id for one in added if one.item_id))
    assert (first.flags, first.keywords, first.item_class) == (3, ("a", "b"), "IPM.Appointment")
    assert first.properties == (("a", "ä"), ("z", "1"))
    assert (first.received_ms, second.received_ms) == (5, -1)
    assert await contents(database, inbox) == [b"\0\xff\r\n raw", b""]


async def test_uids_ascend_and_are_never_used_again(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    first, second = await append(database, b"one", b"two")
    await mailbox.purge([first, second])
    (third,) = await append(database, b"three")
    (row,) = await rows_of(database, third)
    assert row.uid == 3


async def test_every_change_takes_the_next_modseq(database: Database, mailbox: store.Mailbox) -> None:
    before = await head(database)
    first, second = await append(database, b"one", b"two")
    assert [row.modseq for row in await rows_of(database, first, second)] == [before + 1, before + 2]
    await mailbox.change_flags([second, first], add=1)
    assert [row.modseq for row in await rows_of(database, first, second)] == [before + 4, before + 3]
    assert await head(database) == before + 4


async def test_a_delivery_key_is_accepted_once_for_the_same_bytes(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    first = await mailbox.deliver(b"mail", key=b"k")
    again = await mailbox.deliver(b"mail", key=b"k")
    other = await mailbox.deliver(b"other mail", key=b"k")
    assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
    assert again.item_id is None
    assert await contents(database, inbox) == [b"mail", b"other mail"]


async def test_a_delivery_key_outlives_the_message(database: Database, mailbox: store.Mailbox) -> None:
    added = await mailbox.deliver(b"mail", key=b"k")
    assert added.item_id is not None
    await mailbox.purge([added.item_id])
    assert (await mailbox.deliver(b"mail", key=b"k")).duplicate


async def test_a_delivery_key_counts_for_one_mailbox(database: Database, mailbox: store.Mailbox) -> None:
    other = await make_mailbox(database, BOB)
    await mailbox.deliver(b"mail", key=b"k")
    assert not (await other.deliver(b"mail", key=b"k")).duplicate


async def test_flags_are_added_and_removed_and_what_does_not_differ_costs_no_modseq(
    database: Database, mailbox: store.Mailbox
) -> None:
    (item,) = await append(database, b"one")
    assert await mailbox.change_flags([item], add=0b11, add_keywords=["a", "b"]) == 1
    assert await mailbox.change_flags([item], remove=0b01, remove_keywords=["a"]) == 1
    before = await head(database)
    assert await mailbox.change_flags([item], add=0b10, add_keywords=["b"], remove_keywords=["c"]) == 0
    assert await mailbox.set_flags([item], 0b10, ["b"]) == 0
    assert await head(database) == before
    assert await mailbox.set_flags([item], 4) == 1
    (row,) = await rows_of(database, item)
    assert (row.flags, row.keywords) == (4, ())


@pytest.mark.parametrize("verb", ["change_flags", "set_flags", "move", "delete", "purge"])
async def test_an_item_named_twice_is_changed_once(database: Database, mailbox: store.Mailbox, verb: str) -> None:
    """The sums would drift apart from the rows: the fixture recounts them."""
    item, _ = await append(database, b"one", b"two")
    work = await mailbox.create_folder(None, "Work")
    verbs: dict[str, Callable[[], Awaitable[object]]] = {
        "change_flags": lambda: mailbox.change_flags([item, item], add=1),
        "set_flags": lambda: mailbox.set_flags([item, item], 1),
        "move": lambda: mailbox.move([item, item], work),
        "delete": lambda: mailbox.delete([item, item]),
        "purge": lambda: mailbox.purge([item, item]),
    }
    await verbs[verb]()


async def test_a_moved_item_keeps_its_id_and_gets_a_new_uid(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    first, second = await append(database, b"one", b"two")
    work = await mailbox.create_folder(None, "Work")
    await append(database, b"zero", folder=work)
    (added,) = await mailbox.move([second], work)
    assert (added.item_id, added.uid) == (second, 2)
    assert await contents(database, work) == [b"zero", b"two"]
    assert await contents(database, inbox) == [b"one"]
    assert await mailbox.move([second], work) == []  # there already
    assert first


async def test_a_copy_has_an_id_of_its_own_and_shares_the_bytes(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    (item,) = await append(database, b"one")
    (added,) = await mailbox.copy([item], inbox)
    assert added.item_id not in (None, item)
    original, copy = await rows_of(database, item, added.item_id or item)
    assert original.ref == copy.ref
    await mailbox.purge([item])
    assert await contents(database, inbox) == [b"one"]


async def test_a_deleted_item_is_recoverable_and_says_when_and_from_where(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId, clock: Clock
) -> None:
    (item,) = await append(database, b"one")
    clock.now_ms += 60_000
    assert await mailbox.delete([item]) == 1
    hidden = await folder_named(database, store.RECOVERABLE_ITEMS)
    assert hidden.hidden
    (row,) = await rows_of(database, item)
    assert row.folder_id == hidden.folder_id
    assert dict(row.properties) == {DELETED_MS: str(START_MS + 60_000), DELETED_FROM: inbox.hex()}


async def test_a_recoverable_item_is_restored_by_moving_it(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    (item,) = await append(database, b"one")
    await mailbox.delete([item])
    await mailbox.move([item], inbox)
    (row,) = await rows_of(database, item)
    assert (row.folder_id, row.properties) == (inbox, ())
    assert row.uid == 2


async def test_deleting_a_recoverable_item_purges_it(database: Database, mailbox: store.Mailbox) -> None:
    first, second = await append(database, b"one", b"two")
    await mailbox.delete([first])
    before = await head(database)
    assert await mailbox.delete([first, second]) == 2
    assert [row.item_id for row in await rows_of(database, first, second)] == [second]
    page = await database.feed(ALICE, after=before)
    assert [gone.id for gone in page.items_gone] == [first]


async def test_a_users_folder_called_recoverable_items_is_not_the_hidden_one(
    database: Database, mailbox: store.Mailbox
) -> None:
    own = await mailbox.create_folder(None, store.RECOVERABLE_ITEMS)
    (item,) = await append(database, b"one")
    await mailbox.delete([item])
    (row,) = await rows_of(database, item)
    assert row.folder_id != own
    assert (await folder_named(database, f"{store.RECOVERABLE_ITEMS} 2")).hidden
    await mailbox.delete([item])
    assert await rows_of(database, item) == []


async def test_items_that_are_gone_are_left_out_of_every_verb(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    (item,) = await append(database, b"one")
    await mailbox.purge([item])
    before = await head(database)
    assert await mailbox.change_flags([item], add=1) == 0
    assert await mailbox.set_flags([item], 1) == 0
    assert await mailbox.move([item], inbox) == []
    assert await mailbox.copy([item], inbox) == []
    assert await mailbox.delete([item]) == 0
    assert await mailbox.purge([item]) == 0
    assert await head(database) == before


async def test_more_items_than_one_call_takes_are_refused(database: Database, mailbox: store.Mailbox) -> None:
    (item,) = await append(database, b"one")
    with pytest.raises(store.Refused, match="split them"):
        await mailbox.change_flags([item] * (ITEMS_PER_VERB_MAX + 1), add=1)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (store.NewItem(content=b"", received_ms=0, flags=-1), "flags"),
        (store.NewItem(content=b"", received_ms=0, flags=1 << 32), "flags"),
        (store.NewItem(content=b"", received_ms=1 << 63), "not a date"),
        (store.NewItem(content=b"", received_ms=0, keywords=[""]), "keywords"),
        (store.NewItem(content=b"", received_ms=0, keywords=["k" * (KEYWORD_BYTES_MAX + 1)]), "keywords"),
        (store.NewItem(content=b"", received_ms=0, keywords=["\ud800"]), "Unicode"),
        (store.NewItem(content=b"", received_ms=0, properties={"a": "\ud800"}), "Unicode"),
        (store.NewItem(content=b"", received_ms=0, item_class="\ud800"), "Unicode"),
    ],
)
async def test_what_no_item_can_have_is_refused_in_words(
    mailbox: store.Mailbox, inbox: store.FolderId, item: store.NewItem, words: str
) -> None:
    with pytest.raises(store.Refused, match=words):
        await mailbox.append(inbox, [item])
    await mailbox.append(inbox, [store.NewItem(content=b"fine", received_ms=0)])


async def test_flags_of_more_than_32_bits_are_refused(database: Database, mailbox: store.Mailbox) -> None:
    (item,) = await append(database, b"one")
    with pytest.raises(store.Refused, match="flags"):
        await mailbox.set_flags([item], 1 << 32)
    with pytest.raises(store.Refused, match="flags"):
        await mailbox.change_flags([item], add=1 << 40)
    await mailbox.set_flags([item], (1 << 32) - 1)


# ---- quota


async def test_a_quota_is_kept_to_the_byte_and_counts_what_is_recoverable(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    await mailbox.set_setting("quota_bytes", 10)
    (item,) = await append(database, b"12345")
    await mailbox.deliver(b"67890", key=b"k")
    with pytest.raises(store.QuotaExceeded, match="1 bytes do not fit: 10 of 10 are used"):
        await mailbox.deliver(b"!", key=b"k2")
    with pytest.raises(store.QuotaExceeded):
        await mailbox.copy([item], inbox)
    await mailbox.delete([item])
    with pytest.raises(store.QuotaExceeded):
        await mailbox.deliver(b"!", key=b"k2")
    await mailbox.purge([item])
    await mailbox.deliver(b"!", key=b"k2")


async def test_a_refused_delivery_may_be_tried_again_with_its_key(mailbox: store.Mailbox) -> None:
    await mailbox.set_setting("quota_bytes", 1)
    with pytest.raises(store.QuotaExceeded):
        await mailbox.deliver(b"mail", key=b"k")
    await mailbox.set_setting("quota_bytes", None)
    assert not (await mailbox.deliver(b"mail", key=b"k")).duplicate


# ---- folders


@pytest.mark.parametrize(
    "name", ["trailing ", " leading", "a/b", "a.b", "ä", "a\u0308", "work", "Work", "\n", "🙂" * 256]
)
async def test_a_folder_name_is_kept_as_it_is(database: Database, mailbox: store.Mailbox, name: str) -> None:
    for other in ("Work ", "WORK"):
        await mailbox.create_folder(None, other)
    await mailbox.create_folder(None, name)
    assert name in await folder_names(database)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * (FOLDER_NAME_BYTES_MAX + 1), "🙂" * 257])
async def test_a_name_that_no_folder_can_have_is_refused(mailbox: store.Mailbox, name: str) -> None:
    with pytest.raises(store.Refused):
        await mailbox.create_folder(None, name)


@pytest.mark.parametrize("name", ["INBOX", "inbox", "Inbox"])
async def test_there_is_one_inbox_however_it_is_written(mailbox: store.Mailbox, name: str) -> None:
    with pytest.raises(store.Refused):
        await mailbox.create_folder(None, name)
    folder = await mailbox.create_folder(None, "Work")
    with pytest.raises(store.Refused):
        await mailbox.move_folder(folder, None, name)
    await mailbox.create_folder(folder, name)  # below another folder it is a name like any


async def test_inbox_and_the_hidden_folder_stay_where_they_are(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    (item,) = await append(database, b"one")
    await mailbox.delete([item])
    hidden = (await folder_named(database, store.RECOVERABLE_ITEMS)).folder_id
    for folder in (inbox, hidden):
        with pytest.raises(store.Refused, match="stays where it is"):
            await mailbox.move_folder(folder, None, "Other")
        with pytest.raises(store.Refused, match="stays where it is"):
            await mailbox.delete_folder(folder)


async def test_a_name_is_free_again_only_once_its_folder_is_gone(mailbox: store.Mailbox) -> None:
    folder = await mailbox.create_folder(None, "Work")
    with pytest.raises(store.Refused, match="already"):
        await mailbox.create_folder(None, "Work")
    await mailbox.delete_folder(folder)
    await mailbox.create_folder(None, "Work")


async def test_a_name_used_again_has_a_greater_uidvalidity(database: Database, mailbox: store.Mailbox) -> None:
    folder = await mailbox.create_folder(None, "Work")
    before = (await folder_named(database, "Work")).uidvalidity
    await mailbox.delete_folder(folder)
    await mailbox.create_folder(None, "Work")
    assert (await folder_named(database, "Work")).uidvalidity > before


async def test_a_renamed_folder_keeps_uidvalidity_and_uids(database: Database, mailbox: store.Mailbox) -> None:
    folder = await mailbox.create_folder(None, "Work")
    (item,) = await append(database, b"one", folder=folder)
    before = await folder_named(database, "Work")
    parent = await mailbox.create_folder(None, "Parent")
    await mailbox.move_folder(folder, parent, "Play")
    after = await folder_named(database, "Play")
    assert (after.uidvalidity, after.uidnext, after.parent_id) == (before.uidvalidity, before.uidnext, parent)
    assert after.modseq > before.modseq
    assert [row.uid for row in await rows_of(database, item)] == [1]


async def test_a_folder_is_not_moved_into_itself_nor_into_nothing(mailbox: store.Mailbox) -> None:
    outer = await mailbox.create_folder(None, "outer")
    inner = await mailbox.create_folder(outer, "inner")
    for parent in (outer, inner):
        with pytest.raises(store.Refused, match="into itself"):
            await mailbox.move_folder(outer, parent, "outer")
    with pytest.raises(store.NoSuchFolder):
        await mailbox.move_folder(outer, store.FolderId(b"?" * 16), "outer")


async def test_folders_are_only_so_deep_also_when_a_tree_is_moved(mailbox: store.Mailbox) -> None:
    at = None
    for _ in range(FOLDER_DEPTH_MAX + 1):
        at = await mailbox.create_folder(at, "deep")
    with pytest.raises(store.Refused, match="deep"):
        await mailbox.create_folder(at, "deeper")
    outer = await mailbox.create_folder(None, "outer")
    await mailbox.create_folder(outer, "inner")
    (parent,) = [at]
    with pytest.raises(store.Refused, match="deep"):
        await mailbox.move_folder(outer, parent, "outer")


async def test_a_folder_with_folders_in_it_is_not_deleted(mailbox: store.Mailbox) -> None:
    outer = await mailbox.create_folder(None, "outer")
    await mailbox.create_folder(outer, "inner")
    with pytest.raises(store.Refused, match="holds other folders"):
        await mailbox.delete_folder(outer)


async def test_what_was_in_a_deleted_folder_is_recoverable(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    folder = await mailbox.create_folder(None, "Work")
    items = await append(database, b"one", b"two", folder=folder)
    await mailbox.delete_folder(folder)
    assert "Work" not in await folder_names(database)
    hidden = await folder_named(database, store.RECOVERABLE_ITEMS)
    assert {row.folder_id for row in await rows_of(database, *items)} == {hidden.folder_id}
    await mailbox.move(items, inbox)
    assert await contents(database, inbox) == [b"one", b"two"]


async def test_a_folder_with_more_items_than_one_transaction_takes_is_deleted_whole(
    database: Database, mailbox: store.Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.deciding.ITEMS_PER_VERB_MAX", 3)
    folder = await mailbox.create_folder(None, "Work")
    for number in range(7):
        await append(database, b"%d" % number, folder=folder)
    await mailbox.delete_folder(folder)
    assert "Work" not in await folder_names(database)
    assert (await folder_named(database, store.RECOVERABLE_ITEMS)).items == 7


async def test_folder_properties_change_and_what_is_not_named_stays(database: Database, mailbox: store.Mailbox) -> None:
    folder = await mailbox.create_folder(None, "Work", special_use="\\Archive", attributes={"a": "1"})
    await mailbox.update_folder(folder, subscribed=False)
    found = await folder_named(database, "Work")
    assert (found.special_use, found.subscribed, found.attributes) == ("\\Archive", False, (("a", "1"),))
    before = await head(database)
    await mailbox.update_folder(folder, subscribed=False, attributes={"a": "1"})
    assert await head(database) == before
    with pytest.raises(store.Refused, match="Unicode"):
        await mailbox.update_folder(folder, attributes={"a": "\ud800"})
    with pytest.raises(store.NoSuchFolder):
        await mailbox.update_folder(store.FolderId(b"?" * 16), subscribed=True)


# ---- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quota_bytes", 10),
        ("rules", [{"if": "x"}]),
        ("acl", {"bob": "lrs"}),
        ("out_of_office", {"text": "ä"}),
        ("retention_days", 0),
        ("x-own", [1, None, "text"]),
    ],
)
async def test_a_setting_is_set_and_removed(
    database: Database, mailbox: store.Mailbox, name: str, value: object
) -> None:
    await mailbox.set_setting(name, value)
    _, _, settings = await database.account(ALICE)
    assert set(settings) == {name}
    before = await head(database)
    await mailbox.set_setting(name, value)
    assert await head(database) == before
    await mailbox.set_setting(name, None)
    assert (await database.account(ALICE))[2] == {}
    assert await database.setting_states(ALICE) == [(name, None, before + 1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quota_bytes", -1),
        ("quota_bytes", True),
        ("rules", {}),
        ("acl", {"bob": 1}),
        ("unknown", 1),
        ("x-large", "x" * SETTING_BYTES_MAX),
        ("x-\ud800", 1),
        ("x-own", "\ud800"),
    ],
)
async def test_a_setting_of_a_wrong_name_or_type_is_refused(mailbox: store.Mailbox, name: str, value: object) -> None:
    with pytest.raises(store.Refused):
        await mailbox.set_setting(name, value)


# ---- the guard


def every_verb(
    mailbox: store.Mailbox, folder: store.FolderId, inbox: store.FolderId, item: store.ItemId
) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "append": lambda: mailbox.append(inbox, [store.NewItem(content=b"x", received_ms=1)]),
        "deliver": lambda: mailbox.deliver(b"x", key=b"x"),
        "change_flags": lambda: mailbox.change_flags([item], add=1),
        "set_flags": lambda: mailbox.set_flags([item], 1),
        "move": lambda: mailbox.move([item], folder),
        "copy": lambda: mailbox.copy([item], folder),
        "delete": lambda: mailbox.delete([item]),
        "purge": lambda: mailbox.purge([item]),
        "create_folder": lambda: mailbox.create_folder(None, "new"),
        "move_folder": lambda: mailbox.move_folder(folder, None, "renamed"),
        "update_folder": lambda: mailbox.update_folder(folder, subscribed=False),
        "delete_folder": lambda: mailbox.delete_folder(folder),
        "set_setting": lambda: mailbox.set_setting("x-a", 1),
    }


@pytest.mark.parametrize("mode", ["locked", "retired", "sealed", "removed"])
async def test_no_verb_changes_a_mailbox_that_is_not_open(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId, mode: str
) -> None:
    folder = await mailbox.create_folder(None, "Work")
    (item,) = await append(database, b"one")
    mover = database.mover(ALICE)
    if mode == "locked":
        await mover.lock(1)
        expected: type[store.StoreError] = store.MailboxLocked
    else:
        await mover.retire(1, "elsewhere")
        expected = store.MailboxMoved
    if mode == "sealed":
        await mover.seal(1)
        expected = store.MailboxSealed
    if mode == "removed":
        await mover.remove(1, keep_until_ms=START_MS + 1)
        expected = store.NoSuchMailbox
    before = await database.account(ALICE)
    for verb in every_verb(mailbox, folder, inbox, item).values():
        with pytest.raises(expected):
            await verb()
    assert await database.account(ALICE) == before


async def test_a_moved_mailbox_says_where_it_is(database: Database, mailbox: store.Mailbox) -> None:
    await database.mover(ALICE).retire(1, "server b")
    with pytest.raises(store.MailboxMoved) as caught:
        await mailbox.deliver(b"x", key=b"k")
    assert caught.value.home == "server b"


async def test_a_mailbox_that_does_not_exist_is_said_by_every_verb(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    (item,) = await append(database, b"one")
    for verb in every_verb(database.mailbox(BOB), inbox, inbox, item).values():
        with pytest.raises(store.NoSuchMailbox):
            await verb()


async def test_a_mailbox_is_made_once(database: Database, mailbox: store.Mailbox) -> None:
    with pytest.raises(store.Refused, match="exists already"):
        await make_mailbox(database)


async def test_the_clock_may_go_backwards(database: Database, mailbox: store.Mailbox, clock: Clock) -> None:
    await mailbox.create_folder(None, "before")
    clock.now_ms -= 10 * 365 * 86_400_000
    await mailbox.create_folder(None, "after")
    await mailbox.deliver(b"x", key=b"k")
    assert (await mailbox.deliver(b"x", key=b"k")).duplicate
    before, after = await folder_named(database, "before"), await folder_named(database, "after")
    assert after.uidvalidity > before.uidvalidity
    assert await contents(database, await inbox_of(database)) == [b"x"]
