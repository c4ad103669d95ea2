"""Maildirs as they are found: what a scan meets while others write, odd files, and what a target cannot keep."""

import errno
import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from moverq.endpoints.base import FolderStep, GuardMode, StepKind
from moverq.endpoints.maildir import folder, writing
from moverq.endpoints.maildir.endpoint import open_endpoint
from moverq.endpoints.maildir.layout import Layout
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.endpoints.mirrored.mirror import Mirror
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable, RequestRefused
from moverq.model.change import INBOX, BadItem, FolderState, ItemContent, ItemState
from moverq.model.ids import InstanceId, ItemId, MailboxId, new_id
from tests.support.files_place import CLEAN, Place, a_folder, a_place, an_item, gone_since
from tests.support.maildir_client import MaildirClient

MaildirPlace = Place[MaildirClient]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[MaildirPlace]:
    async with a_place(tmp_path, open_endpoint, "maildir:{}", MaildirClient) as one:
        yield one


@pytest.fixture
async def nested(tmp_path: Path) -> AsyncIterator[MaildirPlace]:
    async with a_place(tmp_path, open_endpoint, "maildir:{}:LAYOUT=fs:UTF-8", MaildirClient) as one:
        yield one


async def items(mailbox: MirroredMailbox) -> dict[bytes, ItemState]:
    """Everything that can be read, by content."""
    page = await mailbox.read_seed(None, bytes_max=1 << 20, items_max=1000)
    assert page.done
    return {item.content: item.state for item in page.items}


async def bad(mailbox: MirroredMailbox) -> tuple[BadItem, ...]:
    return (await mailbox.read_seed(None, bytes_max=1 << 20, items_max=1000)).bad


# ---- others write


async def test_a_file_that_is_renamed_while_it_is_listed_is_not_lost(
    place: MaildirPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From new into cur, and from name to name, behind the back of the listing: it meets neither."""
    source = await place.source()
    base = place.client.deliver(CLEAN)
    head = await source.head()
    place.client.deliver(b"Subject: so that there is something to look at\n\n")
    calls = 0
    listdir = os.listdir

    def listed(path: bytes) -> list[bytes]:
        nonlocal calls
        found = listdir(path)
        if isinstance(path, bytes) and path.endswith(b"/cur") and calls < 2:
            calls += 1
            place.client.set_flags("INBOX", base, calls)  # after the one name, before the other
            return [name for name in found if base.encode() not in name]
        return found

    monkeypatch.setattr(folder.os, "listdir", listed)
    assert await gone_since(source, head) == 0
    assert calls == 2
    assert (await items(source))[CLEAN].flags == 2


async def test_a_folder_that_never_rests_loses_nothing(place: MaildirPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no listing was whole for is not said to be gone; a write that must know waits."""
    source = await place.source()
    kept = place.client.deliver(CLEAN)
    place.client.deliver(b"Subject: other\n\n")
    head = await source.head()
    listdir = os.listdir

    def listed(path: bytes) -> list[bytes]:
        place.client.deliver(b"more\n", received_ms=1_700_000_000_000)
        return [name for name in listdir(path) if kept.encode() not in name]

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "listdir", listed)
        assert await gone_since(source, head) == 0
        with pytest.raises(EndpointBusy):
            await source.session.whole_scan(b"INBOX")  # type: ignore[attr-defined]
    assert await gone_since(source, head) == 0
    assert b"Subject: clean\r\n\r\ntext\r\n" in await items(source)


async def test_what_cannot_be_found_in_a_folder_that_never_rests_is_told_again(
    place: MaildirPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed goes on without it, and the feed behind it has it once more; the last feed of all waits."""
    source = await place.source()
    hidden = place.client.deliver(CLEAN)
    (state,) = (await items(source)).values()
    listdir = os.listdir

    def listed(path: bytes) -> list[bytes]:
        place.client.deliver(b"more\n", received_ms=1_700_000_000_000)
        return [name for name in listdir(path) if hidden.encode() not in name]

    head = await source.head()
    place.client.set_flags("INBOX", hidden, 1)
    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "listdir", listed)
        source.session.forget_files()  # type: ignore[attr-defined]
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        assert state.item_id not in {item.state.item_id for item in page.items}
        assert not page.bad
        assert state.item_id in {one.item_id for one in (await source.read_feed(head, changes_max=1000)).items}
        await source.claim(1)
        await source.lock(1)
        with pytest.raises(EndpointBusy):
            await source.fetch([state.item_id], bytes_max=1 << 20)
    (found,), _, _ = await source.fetch([state.item_id], bytes_max=1 << 20)
    assert found.content == CLEAN


async def test_a_file_that_has_another_name_when_it_is_read_is_found(place: MaildirPlace) -> None:
    source = await place.source()
    base = place.client.deliver(CLEAN)
    (state,) = (await items(source)).values()
    place.client.set_flags("INBOX", base, 1)
    session = source.session
    (row,) = await session.mirror.ask(Mirror.folders)
    (located,) = (await session.mirror.ask(lambda mirror: mirror.find([state.item_id]))).values()
    assert await session.read(row, [located.server_uid]) == ({located.server_uid: CLEAN}, {})
    place.client.delete("INBOX", base)
    assert await session.read(row, [located.server_uid]) == ({}, {})


async def test_a_maildir_that_is_not_mounted_is_waited_for(place: MaildirPlace) -> None:
    """An empty mount point is no mailbox in which everything was deleted."""
    source = await place.source()
    place.client.deliver(CLEAN)
    head = await source.head()
    away = place.client.root.with_name("away")
    place.client.root.rename(away)
    with pytest.raises(EndpointUnavailable):
        await source.head()
    place.client.root.mkdir()
    with pytest.raises(EndpointUnavailable):
        await source.head()
    place.client.root.rmdir()
    away.rename(place.client.root)
    assert await gone_since(source, head) == 0
    assert list(await items(source)) == [CLEAN]


async def test_a_folder_that_may_not_be_entered_is_an_error_and_not_one_that_went(
    place: MaildirPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.client.make("Sent")
    place.client.deliver(CLEAN, "Sent")
    source = await place.source()
    head = await source.head()
    stat = os.stat

    def denied(path: Any, **options: Any) -> os.stat_result:
        if b".Sent" in os.fsencode(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return stat(path, **options)

    with monkeypatch.context() as once:  # for root, as whom tests run, may enter all
        once.setattr(os, "stat", denied)
        with pytest.raises(EndpointBroken, match=r"Permission denied .*\.Sent"):
            await source.head()
    assert await gone_since(source, head) == 0


# ---- UIDs


async def test_an_item_is_who_its_clients_think_it_is(place: MaildirPlace) -> None:
    """What came before the server gave UIDs keeps its number where the server gives the same one. Where the server
    gives another, it is another item."""
    source = await place.source()
    uid_list = place.client.root / "dovecot-uidlist"
    uid_list.write_text("3 V1234567890 N5\n")
    guessed, missed = place.client.deliver(b"Subject: 1\r\n\r\n"), place.client.deliver(b"Subject: 2\r\n\r\n")
    before = await items(source)
    assert {state.uid for state in before.values()} == {5, 6}
    (inbox,) = await source.read_hierarchy()
    assert inbox.uidvalidity == 1234567890
    first = before[b"Subject: 1\r\n\r\n"].uid
    uid_list.write_text(f"3 V1234567890 N5\n{first} :{guessed}\n9 :{missed}\n")
    after = await items(source)
    assert after[b"Subject: 1\r\n\r\n"].item_id == before[b"Subject: 1\r\n\r\n"].item_id
    assert after[b"Subject: 2\r\n\r\n"].item_id != before[b"Subject: 2\r\n\r\n"].item_id
    assert after[b"Subject: 2\r\n\r\n"].uid == 9
    assert after[b"Subject: 2\r\n\r\n"].received_ms == before[b"Subject: 2\r\n\r\n"].received_ms
    (inbox,) = await source.read_hierarchy()
    assert inbox.uidnext == 10
    assert await source.account() == await source.recount()


async def test_uids_that_two_new_items_have_the_other_way_round(place: MaildirPlace) -> None:
    source = await place.source()
    first, second = place.client.deliver(b"Subject: 1\r\n\r\n"), place.client.deliver(b"Subject: 2\r\n\r\n")
    assert {content[9:10]: state.uid for content, state in (await items(source)).items()} == {b"1": 1, b"2": 2}
    (place.client.root / "dovecot-uidlist").write_text(f"3 V1234567890 N1\n1 :{second}\n2 :{first}\n")
    assert {content[9:10]: state.uid for content, state in (await items(source)).items()} == {b"1": 2, b"2": 1}
    assert await source.account() == await source.recount()


async def test_a_new_uidvalidity_is_followed_without_reading_anything(place: MaildirPlace) -> None:
    source = await place.source()
    base = place.client.deliver(CLEAN)
    uid_list = place.client.root / "dovecot-uidlist"
    uid_list.write_text(f"3 V1234567890 N1\n1 :{base}\n")
    (before,) = (await items(source)).values()
    uid_list.write_text(f"3 V1234567999 N1\n1 :{base}\n")
    (inbox,) = await source.read_hierarchy()
    assert inbox.uidvalidity == 1234567999
    assert (await items(source))[CLEAN] == before


# ---- bytes


async def test_bytes_are_mail_with_crlf(place: MaildirPlace) -> None:
    source = await place.source()
    for content in (b"Subject: lf\n\nx\n", b"Subject: crlf\r\n\r\nx\r\n", b"Subject: mixed\r\n\nx\n", b""):
        place.client.deliver(content)
    exact = b"Subject: exact\n\n"
    place.client.append("INBOX", exact, name=f"1.exact,W={len(exact)}")
    assert set(await items(source)) == {
        b"Subject: lf\r\n\r\nx\r\n",
        b"Subject: crlf\r\n\r\nx\r\n",
        b"Subject: mixed\r\n\r\nx\r\n",
        b"",
        exact,
    }
    assert await source.account() == await source.recount()


async def test_a_packed_file_is_unpacked_or_a_bad_item(place: MaildirPlace) -> None:
    source = await place.source()
    content = b"Subject: packed\n\n" + b"text\n" * 100
    place.client.append("INBOX", gzip.compress(content), name=f"1.gz,S={len(content)}")
    place.client.append("INBOX", gzip.compress(content)[:-9], name=f"2.torn,S={len(content)}")
    place.client.append("INBOX", gzip.compress(content), name=f"3.lie,S={len(content) - 1}")
    place.client.append("INBOX", b"\x28\xb5\x2f\xfd....", name="4.zstd,S=99")
    place.client.append("INBOX", gzip.compress(content), name="5.mail-of-these-bytes")
    assert content.replace(b"\n", b"\r\n") in await items(source)
    told = [item.why for item in await bad(source)]
    assert len(told) == 3
    assert sum("cannot be unpacked" in why for why in told) == 2
    assert sum("by zstd" in why for why in told) == 1


async def test_what_is_no_file_holds_nobody_up(place: MaildirPlace) -> None:
    source = await place.source()
    os.mkfifo(place.client.root / "cur" / "1.pipe:2,")
    (place.client.root / "cur" / "2.folder:2,").mkdir()
    (place.client.root / "cur" / ".hidden").write_bytes(CLEAN)
    place.client.deliver(CLEAN)
    assert list(await items(source)) == [CLEAN]
    assert sorted(item.why for item in await bad(source)) == [
        "it is no regular file",
        "the file cannot be read: Is a directory",
    ]


async def test_a_link_that_leads_nowhere_holds_nobody_up(place: MaildirPlace) -> None:
    """It is a bad item; and its folder is seen in whole, so that who is deleted is known to be."""
    source = await place.source()
    os.symlink("nowhere", place.client.root / "cur" / "1.link:2,S")
    os.symlink("2.round:2,", place.client.root / "cur" / "2.round:2,")
    kept, deleted = place.client.deliver(CLEAN), place.client.deliver(b"Subject: deleted\n\n")
    assert len(await items(source)) == 2
    head = await source.head()
    place.client.delete("INBOX", deleted)
    assert await gone_since(source, head) == 1
    assert list(await items(source)) == [CLEAN]
    assert sorted(item.why for item in await bad(source)) == [
        "it is a symbolic link that leads nowhere",
        "the file cannot be read: Too many levels of symbolic links",
    ]
    assert place.client.find("INBOX", kept).exists()


async def test_a_user_reads_nothing_by_a_link_that_he_may_not_read_himself(place: MaildirPlace, tmp_path: Path) -> None:
    """He makes the link; the mover is root, and would put it into his mailbox."""
    if os.geteuid() != 0:
        pytest.skip("only root reads what is others'")
    source = await place.source()
    for name, owner, maker in (("secret", 0, 5000), ("own", 5000, 5000), ("public", 5001, 0)):
        (tmp_path / name).write_bytes(f"Subject: {name}\n\n".encode())
        os.chown(tmp_path / name, owner, owner)
        link = place.client.root / "cur" / f"1.{name}:2,"
        os.symlink(tmp_path / name, link)
        os.chown(link, maker, maker, follow_symlinks=False)
    assert set(await items(source)) == {b"Subject: own\r\n\r\n", b"Subject: public\r\n\r\n"}
    assert [item.why for item in await bad(source)] == [
        "the file cannot be read: it is a symbolic link to a file of another user's"
    ]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE])
async def test_what_this_host_lacks_is_no_fault_of_a_message(
    place: MaildirPlace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = await place.source()
    place.client.deliver(CLEAN)
    await source.head()

    def lacking(path: bytes) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(folder, "_bytes_of", lacking)
        with pytest.raises(EndpointUnavailable, match="cannot read messages"):
            await items(source)
    assert list(await items(source)) == [CLEAN]


async def test_files_with_one_name_are_messages_each(place: MaildirPlace) -> None:
    """A backup was put back while the mail was in use, and sizes were corrected meanwhile."""
    source = await place.source()
    named = ["new/6.a", "cur/6.a:2,", "cur/6.a:2,S", "cur/5.a,S=5:2,F", "cur/5.a,S=7:2,F"]
    for number, name in enumerate(named):
        (place.client.root / name).write_bytes(b"Subject: %d\n\n" % number)
    os.link(place.client.root / "cur/6.a:2,", place.client.root / "cur/6.a:2,R")  # on its way, by link and unlink
    found = await items(source)
    assert sorted(found) == [b"Subject: %d\r\n\r\n" % number for number in range(5)]
    assert found[b"Subject: 2\r\n\r\n"].flags == 1
    head = await source.head()
    (place.client.root / "cur/6.a:2,").unlink()
    (place.client.root / "cur/6.a:2,S").rename(place.client.root / "cur/6.a:2,RS")
    batch = await source.read_feed(head, changes_max=99)
    assert len(batch.items_gone) == 0
    assert {item.flags for item in batch.items} <= {2, 3}
    (place.client.root / "new/6.a").unlink()
    (place.client.root / "cur/5.a,S=7:2,F").unlink()
    assert sorted(await items(source)) == [b"Subject: %d\r\n\r\n" % number for number in (1, 2, 3)]


def test_each_of_two_files_with_one_name_has_its_own_where_it_is_moved_to(tmp_path: Path) -> None:
    client = MaildirClient(tmp_path)
    client.make("INBOX")
    client.make("Other")
    for name in ("6.a:2,", "6.a:2,S"):
        (tmp_path / "cur" / name).write_bytes(name.encode())
    root = os.fsencode(tmp_path)
    layout = Layout(root=root, inbox=root, nested=False, utf8=True, control=root)
    scan = folder.scan(root, root)
    wanted = [(ItemId(new_id()), base) for base in scan.files]
    moved = writing._Moved()
    assert writing._rename_over(layout, b"INBOX", b"Other", wanted, scan=scan, taken=(), moved=moved) == []
    there = folder.scan(layout.path(b"Other"), layout.path(b"Other")).files
    assert {one.base for one in moved.named} == there.keys()
    assert len(there) == 2


async def test_a_folder_with_two_names_is_two_folders_and_each_stays_who_it_is(place: MaildirPlace) -> None:
    place.client.make("Sent")
    source = await place.source()
    os.symlink(".Sent", place.client.root / ".Sent Items")
    place.client.deliver(CLEAN, "Sent")
    first = {state.name: state.folder_id for state in await source.read_hierarchy()}
    head = await source.head()
    for _ in range(2):
        place.client.deliver(CLEAN)
        assert {state.name: state.folder_id for state in await source.read_hierarchy()} == first
    assert first.keys() == {INBOX, "Sent", "Sent Items"}
    assert await gone_since(source, head) == 0


async def test_links_that_lead_back_up_do_not_multiply_folders(nested: MaildirPlace) -> None:
    source = await nested.source()
    for place in ("cur", "new", "tmp"):
        (nested.client.root / "A" / place).mkdir(parents=True)
    for name in ("B", "C", "A/D"):
        os.symlink(nested.client.root, nested.client.root / name)
    assert {state.name for state in await source.read_hierarchy()} == {INBOX, "A"}


# ---- a target


async def test_a_target_keeps_every_byte_and_the_usual_form_of_clean_mail(place: MaildirPlace) -> None:
    target, inbox = await place.target()
    contents = [CLEAN, b"Subject: lf\n\n", b"nul \0 and \r alone\r\n", b"no end", b""]
    written = [an_item(inbox, number, content) for number, content in enumerate(contents, 1)]
    assert await target.write_items(written, token=1) == ()
    on_disk = {path.read_bytes() for path in place.client.files("INBOX")}
    assert on_disk == {CLEAN.replace(b"\r\n", b"\n"), *contents[1:]}
    assert set(await items(target)) == set(contents)
    assert await target.account() == await target.recount()
    (file,) = [path for path in place.client.files("INBOX") if path.read_bytes() == b"Subject: clean\n\ntext\n"]
    assert f",S={len(CLEAN) - 3},W={len(CLEAN)}:2," in file.name
    assert file.stat().st_mtime_ns == 1_700_000_000_123_000_000
    assert await target.remarks() == ()


async def test_ids_that_are_alike_are_other_items_all_the_same(place: MaildirPlace) -> None:
    target, inbox = await place.target()
    contents = [b"Subject: %d\r\n\r\n" % number for number in range(4)]
    heads, tails = (bytes(15) + b"a", bytes(15) + b"b"), (b"a" + bytes(15), b"b" + bytes(15))
    written = [
        an_item(inbox, number, content, item_id=ItemId(item_id))
        for number, (content, item_id) in enumerate(zip(contents, (*heads, *tails), strict=True), 1)
    ]
    await target.write_items(written, token=1)
    assert set(await items(target)) == set(contents)
    assert len(list(place.client.files("INBOX"))) == 4


async def test_the_twenty_seventh_keyword_is_left_out_and_told(place: MaildirPlace) -> None:
    target, inbox = await place.target()
    many = tuple(sorted(f"word{number:02}" for number in range(27)))
    await target.write_items([an_item(inbox, 1, keywords=many, flags=9)], token=1)
    (state,) = (await items(target)).values()
    assert (state.keywords, state.flags) == (many, 9)
    assert await target.account() == await target.recount()
    (file,) = place.client.files("INBOX")
    assert file.name.endswith(":2,ST" + "abcdefghijklmnopqrstuvwxyz")
    assert await target.remarks() == ("the server does not keep a keyword",)


async def test_a_message_moves_to_a_folder_with_other_letters_and_its_own_name(place: MaildirPlace) -> None:
    target, inbox = await place.target()
    other = a_folder("Other")
    await target.apply_folders([FolderStep(StepKind.CREATE, other)], token=1)
    first = an_item(inbox, 1, b"Subject: 1\r\n\r\n", keywords=("a", "b"))
    second = an_item(other.folder_id, 1, b"Subject: 2\r\n\r\n", keywords=("b",))
    await target.write_items([first, second], token=1)
    (there,) = place.client.files("Other")
    (here,) = place.client.files("INBOX")
    taken = place.client.path("Other") / "cur" / here.name  # a stranger's file of the same name
    taken.write_bytes(b"Subject: a stranger\n\n")
    moved = first.state._replace(folder_id=other.folder_id, uid=9, modseq=50)
    await target.write_items([ItemContent(moved, first.content)], token=1)
    assert list(place.client.files("INBOX")) == []
    files = {path.read_bytes(): path for path in place.client.files("Other")}
    assert files.keys() == {b"Subject: 1\n\n", b"Subject: 2\n\n", b"Subject: a stranger\n\n"}
    assert files[b"Subject: 2\n\n"] == there
    assert files[b"Subject: a stranger\n\n"] == taken
    assert files[b"Subject: 1\n\n"].name.endswith(":2,ab")
    assert there.name.endswith(":2,a")
    assert {state.keywords for state in (await items(target)).values()} == {("a", "b"), ("b",)}
    assert await target.account() == await target.recount()


async def test_what_a_crash_left_in_tmp_is_cleared_and_written_anew(
    place: MaildirPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, inbox = await place.target()
    item = an_item(inbox, 1)
    rename = os.rename

    def torn(old: bytes, new: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writing.folder.os, "rename", torn)
        with pytest.raises(KeyboardInterrupt):
            await target.write_items([item], token=1)
    assert os.rename is rename
    assert len(list((place.client.root / "tmp").iterdir())) == 1
    await target.write_items([item], token=1)
    assert list((place.client.root / "tmp").iterdir()) == []
    assert len(list(place.client.files("INBOX"))) == 1
    assert await target.account() == await target.recount()


@pytest.mark.parametrize("name", ["a.b", "a/b", "..", "cur", "Inbox", "x" * 300, "new\nline", "~", "&"])
async def test_a_name_that_a_maildir_cannot_have_is_another_one_there(place: MaildirPlace, name: str) -> None:
    target, _ = await place.target()
    folder_state = a_folder(name)
    await target.apply_folders([FolderStep(StepKind.CREATE, folder_state)], token=1)
    assert {state.name for state in await target.read_hierarchy()} == {INBOX, name}
    inside = [path for path in place.client.root.iterdir() if path.is_dir() and path.name.startswith(".")]
    assert len(inside) == 1
    assert sorted(path.name for path in place.client.root.parent.iterdir()) == ["mail", "mirrors"]


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "cur", "tmp", "Inbox", "ä.b", "x" * 300])
async def test_likewise_where_folders_lie_in_each_other(nested: MaildirPlace, name: str) -> None:
    target, _ = await nested.target()
    outer, inner = a_folder("outer"), a_folder(name)
    inner = attrs.evolve(inner, parent_id=outer.folder_id)
    await target.apply_folders([FolderStep(StepKind.CREATE, one) for one in (outer, inner)], token=1)
    assert {state.name for state in await target.read_hierarchy()} == {INBOX, "outer", name}
    await target.write_items([an_item(inner.folder_id, 1)], token=1)
    renamed = attrs.evolve(outer, name="Other", modseq=9)
    await target.apply_folders([FolderStep(StepKind.MOVE, renamed)], token=1)
    found = [path for path in (nested.client.root / "Other").rglob("*.moverq*") if path.is_file()]
    assert len(found) == 1
    assert await target.account() == await target.recount()


async def test_nested_folders_are_found_and_those_that_only_hold_folders_too(nested: MaildirPlace) -> None:
    for path in ("", "A/B", "A/B/C", "ä", "D/cur-like"):
        for inner in ("cur", "new", "tmp"):
            (nested.client.root / path / inner).mkdir(parents=True)
    source = await nested.source()
    tree = {state.folder_id: state for state in await source.read_hierarchy()}

    def path_of(state: FolderState) -> str:
        return f"{path_of(tree[state.parent_id])}/{state.name}" if state.parent_id is not None else state.name

    assert {path_of(state) for state in tree.values()} == {INBOX, "A", "A/B", "A/B/C", "ä", "D", "D/cur-like"}


async def test_a_folder_with_somebody_elses_mail_stays_and_is_told_of(place: MaildirPlace) -> None:
    target, _ = await place.target()
    state = a_folder("Gone")
    await target.apply_folders([FolderStep(StepKind.CREATE, state)], token=1)
    place.client.deliver(CLEAN, "Gone")
    await target.apply_folders([FolderStep(StepKind.REMOVE, state)], token=1)
    assert [path.read_bytes() for path in place.client.files("Gone")] == [CLEAN]
    assert await target.remarks() == ("folder 'Gone' is left at the server, for messages in it that no move wrote",)


async def test_one_maildir_is_one_mailbox(place: MaildirPlace) -> None:
    await place.source()
    with pytest.raises(RequestRefused, match="is one mailbox"):
        await place.endpoint.adopt(MailboxId(new_id()), InstanceId(new_id()), "bob@example.org")
    with pytest.raises(RequestRefused, match="is one mailbox"):
        await place.endpoint.mailbox(InstanceId(new_id())).create(MailboxId(new_id()), token=1)


async def test_what_is_no_maildir_is_not_adopted(place: MaildirPlace) -> None:
    with pytest.raises(RequestRefused, match="there is no mailbox"):
        await place.endpoint.adopt(place.mailbox_id, place.instance, "ada@example.org")
    assert not place.client.root.exists()
    assert await place.endpoint.instances() == []


async def test_a_target_need_not_exist(place: MaildirPlace) -> None:
    target, _ = await place.target()
    assert (await target.guard()).mode is GuardMode.SEALED
    assert {path.name for path in place.client.root.iterdir()} >= {"cur", "new", "tmp"}


async def test_a_new_maildir_is_nobody_elses_to_read(place: MaildirPlace) -> None:
    """Homes are open to all at many a site; mail is not."""
    place.client.root.parent.chmod(0o755)
    target, inbox = await place.target()
    other = a_folder("Other")
    await target.apply_folders([FolderStep(StepKind.CREATE, other)], token=1)
    await target.write_items([an_item(inbox, 1), an_item(other.folder_id, 1, b"Subject: 2\r\n\r\n")], token=1)
    found = [place.client.root, *place.client.root.rglob("*")]
    assert len(found) > 8
    assert {path.stat().st_mode & 0o077 for path in found} == {0}


async def test_a_maildir_of_a_group_stays_that_groups(place: MaildirPlace) -> None:
    place.client.root.parent.chmod(0o2775)
    target, inbox = await place.target()
    await target.write_items([an_item(inbox, 1)], token=1)
    (file,) = place.client.files("INBOX")
    assert (place.client.root.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o770, 0o660)


async def test_a_folder_that_lost_its_tmp_takes_mail(place: MaildirPlace) -> None:
    """An archive keeps no empty folders."""
    target, inbox = await place.target()
    (place.client.root / "tmp").rmdir()
    assert await target.write_items([an_item(inbox, 1)], token=1) == ()
    assert list(await items(target)) == [CLEAN]


def test_a_folder_is_renamed_into_one_that_only_holds_folders(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    layout = Layout(root=root, inbox=root, nested=True, utf8=True, control=root)
    layout.make(b"A")
    layout.rename(b"A", b"X/Y/Z")
    assert list(layout.wires()) == [b"X/Y/Z"]


@pytest.mark.parametrize("layout", ["", ":LAYOUT=fs"])
async def test_what_dovecot_keeps_beside_the_mail_is_where_control_says(tmp_path: Path, layout: str) -> None:
    location = f"maildir:{{}}:CONTROL={tmp_path}/control{layout}"
    async with a_place(tmp_path, open_endpoint, location, MaildirClient) as place:
        source = await place.source()
        beside = tmp_path / "control" / ("INBOX" if layout else ".INBOX")
        beside.mkdir(parents=True)
        (beside / "dovecot-keywords").write_text("0 Work\n")
        (beside / "dovecot-uidlist").write_text("3 V1700000000 N9 G0\n7 :1.a\n")
        (place.client.root / "cur" / "1.a:2,Sa").write_bytes(CLEAN)
        (state,) = (await items(source)).values()
        assert (state.uid, state.flags, state.keywords) == (7, 1, ("Work",))
        head = await source.head()
        (beside / "dovecot-keywords").write_text("0 Other\n")
        assert [item.keywords for item in (await source.read_feed(head, changes_max=9)).items] == [("Other",)]


@pytest.mark.parametrize("layout", ["", ":LAYOUT=fs"])
async def test_keywords_of_a_target_are_where_control_says_and_follow_their_folder(tmp_path: Path, layout: str) -> None:
    control = tmp_path / "control"
    location = f"maildir:{{}}:CONTROL={control}{layout}"
    async with a_place(tmp_path, open_endpoint, location, MaildirClient) as place:
        target, inbox = await place.target()
        other = a_folder("Other", subscribed=True)
        await target.apply_folders([FolderStep(StepKind.CREATE, other)], token=1)
        first = an_item(inbox, 1, keywords=("a", "b"))
        await target.write_items([first, an_item(other.folder_id, 1, b"2\r\n", keywords=("b",))], token=1)
        renamed = attrs.evolve(other, name="New", modseq=9)
        await target.apply_folders([FolderStep(StepKind.MOVE, renamed)], token=1)
        moved = first.state._replace(folder_id=other.folder_id, uid=9, modseq=50)
        await target.write_items([ItemContent(moved, first.content)], token=1)
        assert await target.account() == await target.recount()
        dot = "" if layout else "."
        kept = {path.relative_to(control).as_posix(): path for path in control.rglob("*") if path.is_file()}
        assert kept.keys() == {f"{dot}INBOX/dovecot-keywords", f"{dot}New/dovecot-keywords", "subscriptions"}
        assert kept[f"{dot}New/dovecot-keywords"].read_text() == "0 b\n1 a\n"
        found = (place.client.root / f"{dot}New" / "cur").iterdir()
        assert {path.name.partition(":")[2] for path in found} == {"2,a", "2,ab"}


async def test_links_in_the_way_make_no_other_file_the_users(place: MaildirPlace, tmp_path: Path) -> None:
    """The names that something has before it has its own can be told in advance."""
    target, inbox = await place.target()
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o755)
    (precious / "file").write_bytes(b"kept")
    for name in ("dovecot-keywords", "subscriptions"):
        os.symlink(precious / "file", place.client.root / f"{name}.moverq")
    os.symlink(precious, place.client.root / ".Other.moverq")
    before = [(path.stat().st_uid, path.stat().st_mode) for path in (precious, precious / "file")]
    await target.write_items([an_item(inbox, 1, keywords=("word",))], token=1)
    await target.apply_folders([FolderStep(StepKind.CREATE, a_folder("Other", subscribed=True))], token=1)
    assert (place.client.root / "dovecot-keywords").read_text() == "0 word\n"
    assert (precious / "file").read_bytes() == b"kept"
    assert [(path.stat().st_uid, path.stat().st_mode) for path in (precious, precious / "file")] == before
    assert not (place.client.root / ".Other").is_symlink()


@pytest.mark.parametrize("nested", [False, True])
def test_a_link_that_leads_nowhere_is_no_folder(tmp_path: Path, nested: bool) -> None:
    root = os.fsencode(tmp_path)
    layout = Layout(root=root, inbox=root, nested=nested, utf8=True, control=root)
    for wire in (b"INBOX", b"A"):
        layout.make(wire)
    for name in ("round", "gone"):
        os.symlink({"round": "round"}.get(name, "nowhere"), tmp_path / name)
        os.symlink({"round": ".round"}.get(name, "nowhere"), tmp_path / f".{name}")
    assert [one.wire for one in layout.listed(1)] == [b"A", b"INBOX"]
