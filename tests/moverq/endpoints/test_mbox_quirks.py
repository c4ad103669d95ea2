"""mbox files as they are found: what a look meets while others write, odd files, and what a target does to them."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from moverq.endpoints.base import FolderStep, GuardMode, Home, StepKind
from moverq.endpoints.mbox import appending, index
from moverq.endpoints.mbox.endpoint import open_endpoint
from moverq.endpoints.mbox.layout import Layout
from moverq.endpoints.mbox.locks import locked
from moverq.endpoints.mbox.session import MboxSession
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.endpoints.mirrored.mirror import Mirror
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable
from moverq.model.change import INBOX, ChangeBatch, Gone, ItemState
from moverq.model.ids import InstanceId, new_id
from tests.support.files_place import CLEAN, Place, a_folder, a_place, an_item, gone_since
from tests.support.killing import Killed
from tests.support.mbox_client import MboxClient

FROM = b"From a@b Tue Nov 14 22:13:20 2023 +0000\n"
MboxPlace = Place[MboxClient]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[MboxPlace]:
    async with a_place(tmp_path, open_endpoint, "mbox:{}", MboxClient) as one:
        yield one


async def items(mailbox: MirroredMailbox) -> list[tuple[bytes, ItemState]]:
    page = await mailbox.read_seed(None, bytes_max=1 << 20, items_max=1000)
    assert page.done
    return [(item.content, item.state) for item in page.items]


async def contents(mailbox: MirroredMailbox) -> list[bytes]:
    return [content for content, _ in await items(mailbox)]


def inbox_of(place: MboxPlace) -> Path:
    return place.client.path("INBOX")


def deliver_behind(path: Path, data: bytes) -> None:
    """As an agent does that looks whether a line ends there."""
    with open(path, "ab") as file:
        file.write(data if path.read_bytes().endswith(b"\n") else b"\n" + data)


def session_of(mailbox: MirroredMailbox) -> MboxSession:
    assert isinstance(mailbox.session, MboxSession)
    return mailbox.session


# ---- others write


async def test_a_file_that_is_being_written_loses_nothing(place: MboxPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that moves messages up has the file in pieces meanwhile: who is not met is not said to be gone."""
    monkeypatch.setattr(index, "WAIT_S", 0.01)
    source = await place.source()
    for number in range(3):
        place.client.deliver(b"Subject: %d\n\n" % number)
    head = await source.head()
    whole = inbox_of(place).read_bytes()
    with locked(os.fsencode(inbox_of(place))):
        inbox_of(place).write_bytes(whole[:-40])
        with pytest.raises(EndpointBusy):
            await source.read_feed(head, changes_max=1000)
        with pytest.raises(EndpointBusy):
            await session_of(source).whole_index(b"INBOX")
    inbox_of(place).write_bytes(whole)
    assert await gone_since(source, head) == 0
    assert len(await items(source)) == 3


async def test_a_message_that_is_not_where_it_was_is_found(place: MboxPlace) -> None:
    """Its header grew, another went: behind the back of an index."""
    source = await place.source()
    bases = [place.client.deliver(b"Subject: %d\n\n" % number) for number in range(3)]
    await items(source)
    session = session_of(source)
    (row,) = await session.mirror.ask(Mirror.folders)
    known = session._kept[b"INBOX"]
    numbers = {base: at + 1 for at, base in enumerate(bases)}
    place.client.delete("INBOX", bases[0])
    place.client.set_flags("INBOX", bases[1], 31, ["a" * 300])
    session.note_index(b"INBOX", attrs.evolve(known, stamp=index.stamp_of(os.fsencode(inbox_of(place)))))
    read, missing = await session.read(row, list(numbers.values()))
    assert (set(read), missing) == ({2, 3}, {})
    assert read[3] == b"Subject: 2\r\n\r\n"


async def test_mail_that_is_not_mounted_is_waited_for(place: MboxPlace) -> None:
    source = await place.source()
    place.client.deliver(CLEAN)
    place.client.make("Sent")
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
    assert await contents(source) == [CLEAN]


async def test_an_empty_inbox_may_have_no_file(place: MboxPlace) -> None:
    """Some programs remove it."""
    source = await place.source()
    base = place.client.deliver(CLEAN)
    assert len(await items(source)) == 1
    place.client.delete("INBOX", base)
    assert await items(source) == []
    inbox_of(place).unlink()
    (before,) = await source.read_hierarchy()
    place.client.make("INBOX")
    place.client.deliver(CLEAN)
    assert len(await items(source)) == 1
    (after,) = await source.read_hierarchy()
    assert after.folder_id == before.folder_id


async def test_what_is_no_mbox_is_no_folder(place: MboxPlace) -> None:
    source = await place.source()
    for name in ("notes.txt", "Sent.msf", "gone.lock", ".hidden"):
        (place.client.root / name).write_text("something else\n")
    (place.client.root / "empty").touch()
    os.mkfifo(place.client.root / "pipe")
    (place.client.root / "loop").symlink_to(place.client.root)
    (place.client.root / "round").symlink_to("round")
    (place.client.root / "gone").symlink_to("nowhere")
    place.client.make("Sent")
    place.client.make("Sent/2023")
    (place.client.root / "only-folders").mkdir()
    (place.client.root / "only-folders" / "inner").write_bytes(FROM + b"\n\n")
    rows = {row.wire: row for row in await session_of(source).mirror.ask(Mirror.folders)}
    await source.read_hierarchy()
    rows = {row.wire: row for row in await session_of(source).mirror.ask(Mirror.folders)}
    assert {wire for wire, row in rows.items() if row.selectable} == {
        b"INBOX",
        b"empty",
        b"Sent",
        b"Sent/2023",
        b"only-folders/inner",
    }
    assert not rows[b"only-folders"].selectable
    assert rows[b"Sent/2023"].state.parent_id == rows[b"Sent"].folder_id


# ---- UIDs


async def test_an_item_is_who_its_clients_think_it_is(place: MboxPlace) -> None:
    source = await place.source()
    one, two = FROM + b"Subject: 1\n", FROM + b"Subject: 2\n"
    inbox_of(place).write_bytes(one + b"\n\n" + two + b"\n\n")
    before = dict(await items(source))
    assert [state.uid for state in before.values()] == [1, 2]
    inbox_of(place).write_bytes(one + b"X-IMAPbase: 77 0000000009\nX-UID: 1\n\n\n" + two + b"X-UID: 9\n\n\n")
    after = dict(await items(source))
    first, second = b"Subject: 1\r\n\r\n", b"Subject: 2\r\n\r\n"
    assert (after[first].item_id, after[first].uid) == (before[first].item_id, 1)
    assert after[second].item_id != before[second].item_id
    assert after[second].uid == 9
    (inbox,) = await source.read_hierarchy()
    assert (inbox.uidvalidity, inbox.uidnext) == (77, 10)
    assert await source.account() == await source.recount()


async def test_uids_that_do_not_rise_are_none(place: MboxPlace) -> None:
    source = await place.source()
    fields = b"X-IMAPbase: 77 0000000009\nX-UID: 5\n"
    inbox_of(place).write_bytes(FROM + fields + b"\n1\n\n" + FROM + b"X-UID: 5\n\n2\n\n" + FROM + b"X-UID: 4\n\n3\n\n")
    assert sorted(state.uid for _, state in await items(source)) == [5, 10, 11]


# ---- a target


async def test_a_target_keeps_what_an_mbox_can_keep(place: MboxPlace) -> None:
    target, inbox = await place.target()
    odd = [
        b"Subject: own\r\nStatus: RO\r\nX-UID: 7\r\nX-Keywords: spam\r\n\r\ntext\r\n",
        b"Subject: looks\r\n\r\nFrom a@b Tue Nov 14 22:13:20 2023\r\n",
        b"no header and no end",
        b"nul \0 and \r alone\r\n",
        b"",
    ]
    kept = [CLEAN, b"Subject: quoted\r\n\r\n>From a friend\r\nFrom me\r\n", b"Subject: empty\r\n\r\n"]
    written = [an_item(inbox, number, content) for number, content in enumerate([*odd, *kept], 1)]
    assert await target.write_items(written, token=1) == ()
    assert await target.account() == await target.recount()
    assert set(kept) <= set(await contents(target))
    text = inbox_of(place).read_text()
    assert text.count("\nX-IMAPbase: ") == 1
    assert "\n>From a@b Tue Nov 14 22:13:20 2023\n" in text
    assert text.count(" Tue Nov 14 22:13:20 2023 +0000\n") == len(written)


async def test_of_equal_messages_each_is_its_own(place: MboxPlace) -> None:
    """Flags of one change, another goes, one comes: also where they are equal, date and all."""
    target, inbox = await place.target()
    three = [an_item(inbox, uid) for uid in (1, 2, 3)]
    await target.write_items(three, token=1)
    first, second, third = (item.state for item in three)
    watermark = await target.head()
    batch = ChangeBatch(
        through=watermark,
        more=False,
        hierarchy=None,
        items=(second._replace(flags=1, keywords=("work",), modseq=50),),
        items_gone=(Gone(first.item_id, 51),),
        settings=(),
        delivery_keys=(),
    )
    for _ in range(2):
        assert await target.apply_changes(batch, token=1) == ()
        assert await target.account() == await target.recount()
        found = {state.item_id: (state.flags, state.keywords) for _, state in await items(target)}
        assert found == {second.item_id: (1, ("work",)), third.item_id: (0, ())}
    entries = index.read_index(os.fsencode(inbox_of(place))).entries.values()
    assert sorted((entry.flags, entry.keywords) for entry in entries) == [(0, ()), (1, ("work",))]


@pytest.mark.parametrize("bytes_kept", [0, 1, 5, 30, 60, 100, 200, 470, 700])
async def test_an_append_cut_short_is_made_once(
    bytes_kept: int, place: MboxPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is whole of it stays, what is not goes, and what others delivered since stays too."""
    target, inbox = await place.target()
    await target.write_items([an_item(inbox, 1)], token=1)
    two = [an_item(inbox, 2, CLEAN), an_item(inbox, 3, b"Subject: other\r\n\r\n" + b"line\r\n" * 40)]
    pwrite = os.pwrite

    def torn(descriptor: int, data: bytes, at: int) -> int:
        pwrite(descriptor, data[:bytes_kept], at)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(appending.os, "pwrite", torn)
        with pytest.raises(Killed):
            await target.write_items(two, token=1)
    session_of(target).forget_files()
    deliver_behind(inbox_of(place), FROM + b"Subject: late\n\n\n")
    for _ in range(2):
        assert await target.write_items(two, token=1) == ()
    assert sorted(await contents(target)) == sorted([CLEAN, CLEAN, two[1].content])
    assert await target.account() == await target.recount()
    entries = index.read_index(os.fsencode(inbox_of(place))).entries.values()
    assert sum(1 for entry in entries if not entry.token) == 1
    assert len(entries) == 4


async def test_a_stranger_in_a_message_that_was_cut_short_stays(
    place: MboxPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that does not look whether the file ends with a line writes into ours: then it is nobody's to remove."""
    target, inbox = await place.target()
    item = an_item(inbox, 1)

    def torn(descriptor: int, data: bytes, at: int) -> int:
        os.write(descriptor, data[:-20])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(appending.os, "pwrite", torn)
        with pytest.raises(Killed):
            await target.write_items([item], token=1)
    session_of(target).forget_files()
    inbox_of(place).write_bytes(inbox_of(place).read_bytes() + FROM + b"Subject: late\n\n\n")
    await target.write_items([item], token=1)
    assert await contents(target) == [CLEAN]
    assert b"Subject: late" in inbox_of(place).read_bytes()


async def test_a_spool_is_nobodys_and_what_is_made_in_it_the_users(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root writes for others")
    home, spool = tmp_path / "home", tmp_path / "spool"
    home.mkdir()
    spool.mkdir()
    os.chown(home, 5000, 5000)
    os.chown(spool, 0, 8)
    layout = Layout(root=os.fsencode(home / "mail"), inbox=os.fsencode(spool / "ada"), utf8=False)
    layout.make(b"INBOX")
    layout.make(b"A/B")
    made = (spool / "ada").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (5000, 8, 0o660)
    assert (home / "mail" / "A" / "B").stat().st_uid == 5000


def test_new_mail_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """Homes are open to all at many a site; mail is not."""
    tmp_path.chmod(0o755)
    layout = Layout(root=os.fsencode(tmp_path / "mail"), inbox=None, utf8=False)
    for wire in (b"INBOX", b"Sent", b"A/B"):
        layout.make(wire)
    Layout(root=os.fsencode(tmp_path / "one.mbox"), inbox=None, utf8=False).make(b"INBOX")
    assert {path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")} == {0}


@pytest.mark.parametrize("name", ["inbox", "Bob"])
async def test_a_user_reads_and_writes_nothing_by_a_link_that_he_may_not_himself(
    place: MboxPlace, tmp_path: Path, name: str
) -> None:
    """He makes the link; the mover is root, and would put it into his mailbox."""
    if os.geteuid() != 0:
        pytest.skip("only root reads what is others'")
    source = await place.source()
    (tmp_path / "bob").write_bytes(FROM + b"Subject: secret\n\n")
    os.chown(tmp_path / "bob", 5001, 5001)
    link = place.client.root / name
    link.unlink(missing_ok=True)
    os.symlink(tmp_path / "bob", link)
    os.chown(link, 5000, 5000, follow_symlinks=False)
    with pytest.raises(EndpointBroken, match="Permission denied to uid 5000"):
        await items(source)
    with pytest.raises(PermissionError), locked(os.fsencode(link)):
        pass
    os.chown(link, 5001, 5001, follow_symlinks=False)
    assert await contents(source) == [b"Subject: secret\r\n"]


async def test_a_folder_that_holds_folders_and_mail(place: MboxPlace) -> None:
    """The one becomes a file, the others lie beside it; also where they were there before."""
    target, _ = await place.target()
    outer = a_folder("A", attributes={"\\Noselect": "1"})
    inner = a_folder("B", outer.folder_id)
    steps = [FolderStep(StepKind.CREATE, outer), FolderStep(StepKind.CREATE, inner)]
    await target.apply_folders(steps, token=1)
    root = place.client.root
    assert (root / "A" / "B").is_file()
    await target.apply_folders([FolderStep(StepKind.UPDATE, attrs.evolve(outer, attributes={}, modseq=2))], token=1)
    assert (root / "A").is_file()
    assert (root / "A.sbd" / "B").is_file()
    await target.write_items(
        [an_item(outer.folder_id, 1), an_item(inner.folder_id, 1, b"Subject: in\r\n\r\n")], token=1
    )
    assert sorted(await contents(target)) == [CLEAN, b"Subject: in\r\n\r\n"]
    moved = attrs.evolve(outer, name="C", attributes={}, modseq=3)
    await target.apply_folders([FolderStep(StepKind.MOVE, moved)], token=1)
    assert (root / "C").is_file()
    assert (root / "C.sbd" / "B").is_file()
    assert sorted(await contents(target)) == [CLEAN, b"Subject: in\r\n\r\n"]
    assert await target.account() == await target.recount()


async def test_what_only_held_folders_is_gone_with_them(place: MboxPlace) -> None:
    """Also for a mail program, and for a folder that gets the name."""
    target, _ = await place.target()
    outer = a_folder("A", attributes={"\\Noselect": "1"})
    inner = a_folder("B", outer.folder_id)
    await target.apply_folders([FolderStep(StepKind.CREATE, one) for one in (outer, inner)], token=1)
    (place.client.root / "A" / ".imap" / "B").mkdir(parents=True)
    await target.apply_folders([FolderStep(StepKind.REMOVE, one) for one in (inner, outer)], token=1)
    assert not (place.client.root / "A").exists()
    other = a_folder("C")
    within = a_folder("D", other.folder_id)
    await target.apply_folders([FolderStep(StepKind.CREATE, one) for one in (other, within)], token=1)
    await target.apply_folders([FolderStep(StepKind.REMOVE, one) for one in (within, other)], token=1)
    assert not (place.client.root / "C.sbd").exists()


async def test_a_directory_with_what_is_no_mail_stays(place: MboxPlace) -> None:
    target, _ = await place.target()
    outer = a_folder("A", attributes={"\\Noselect": "1"})
    inner = a_folder("B", outer.folder_id)
    await target.apply_folders([FolderStep(StepKind.CREATE, one) for one in (outer, inner)], token=1)
    (place.client.root / "A" / "notes.txt").write_text("not mail")
    await target.apply_folders([FolderStep(StepKind.REMOVE, one) for one in (inner, outer)], token=1)
    assert [path.name for path in (place.client.root / "A").iterdir()] == ["notes.txt"]
    assert [folder.name for folder in await target.read_hierarchy()] == [INBOX]


async def test_a_move_between_folders_writes_no_uid_of_the_old_one(place: MboxPlace) -> None:
    """Back at a mailbox that a server gave UIDs."""
    source = await place.source()
    place.client.make("Sent")
    fields = b"X-IMAPbase: 77 0000000009 work\nX-UID: 5\nX-Keywords: work\nStatus: RO\n"
    inbox_of(place).write_bytes(FROM + b"Subject: 1\n" + fields + b"\ntext\n\n" + FROM + b"Subject: 2\nX-UID: 6\n\n\n")
    head = await source.head()
    state = next(state for content, state in await items(source) if content.startswith(b"Subject: 1"))
    sent = next(folder for folder in await source.read_hierarchy() if folder.name == "Sent")
    await source.claim(1)
    await source.retire(1, Home("elsewhere", InstanceId(new_id())))
    batch = ChangeBatch(
        through=attrs.evolve(head, modseq=1000),
        more=False,
        hierarchy=None,
        items=(state._replace(folder_id=sent.folder_id, uid=1, modseq=999),),
        items_gone=(),
        settings=(),
        delivery_keys=(),
    )
    assert await source.apply_changes(batch, token=1) == ()
    there = place.client.path("Sent").read_bytes()
    assert b"X-UID" not in there
    assert b"X-Keywords: work" in there
    here = index.read_index(os.fsencode(inbox_of(place)))
    assert [entry.uid for entry in here.entries.values()] == [6]
    assert here.base == index.Base(77, 9, ("work",))
    assert await source.account() == await source.recount()


async def test_a_target_that_was_opened_is_its_users(place: MboxPlace) -> None:
    target, inbox = await place.target()
    await target.write_items([an_item(inbox, 1)], token=1)
    await target.open(1)
    assert (await target.guard()).mode is GuardMode.OPEN
    base = next(iter(place.client.index("INBOX").entries)).decode()
    place.client.set_flags("INBOX", base, 1)
    ((content, state),) = await items(target)
    assert (content, state.flags) == (CLEAN, 1)


async def test_an_inbox_that_holds_only_what_is_no_message_is_empty(place: MboxPlace) -> None:
    """UW's programs leave that behind; what it says of the folder is added to."""
    place.client.make("INBOX")
    internal = FROM + b"Subject: DO NOT DELETE\nX-IMAP: 77 0000000009 old\nStatus: RO\n\nnone\n\n"
    inbox_of(place).write_bytes(internal)
    target, inbox = await place.target()
    await target.write_items([an_item(inbox, 1, keywords=("new",))], token=1)
    ((content, state),) = await items(target)
    assert (content, state.keywords) == (CLEAN, ("new",))
    found = index.read_index(os.fsencode(inbox_of(place)))
    assert found.base == index.Base(77, 9, ("old", "new"))
    assert await target.account() == await target.recount()
    assert inbox_of(place).read_bytes().startswith(FROM + b"Subject: DO NOT DELETE\nX-IMAP: 77 0000000009 old new\n")
