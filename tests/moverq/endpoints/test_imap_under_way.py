"""What is under way at once to an IMAP server: batches of one folder on several connections, pages asked for ahead."""

import random
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from moverq.endpoints.imap import appending, lending, pace
from moverq.endpoints.imap.connection import Connection, MailboxName
from moverq.endpoints.imap.pace import Pace, Took
from moverq.endpoints.mirrored.intents import ToAppend
from moverq.endpoints.mirrored.normal_form import content_hash
from moverq.errors import EndpointBusy, EndpointUnavailable
from moverq.model.change import ItemContent, ItemState
from moverq.model.ids import InstanceId, ItemId, MailboxId
from tests.moverq.endpoints.test_imap_quirks import INBOX_ID, SENT_ID, a_source, an_endpoint, folders
from tests.support.fake_imap import RICH, FakeImap, Quirk, open_fake


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")


def many(count: int, *, seed: int) -> list[ItemContent]:
    """Messages of all sizes, in two folders."""
    rng = random.Random(seed)
    made: list[ItemContent] = []
    for number in range(count):
        content = b"Subject: %d\r\n\r\n" % number + b"x" * rng.choice((0, 10, 5000, 300_000)) + b"\r\n"
        state = ItemState(
            ItemId(number.to_bytes(16, "big")),
            INBOX_ID if number % 10 else SENT_ID,
            number + 1,
            number + 1,
            1_700_000_000_000 + number * 1000,
            len(content),
            content_hash(content),
            number % 4,
            (),
        )
        made.append(ItemContent(state, content))
    return made


def in_order(server: FakeImap, name: str) -> list[bytes]:
    return [mail.content for mail in sorted(server.folders[name].mail, key=lambda mail: mail.uid)]


def test_a_page_is_cut_into_as_many_batches_as_are_wanted() -> None:
    written = [ToAppend(state, content, state.flags, ()) for state, content in many(120, seed=3)]
    bytes_ = sum(one.state.size for one in written)
    for into in (1, 2, 4):
        batches = list(appending.cut(written, of=len(written), into=into))
        assert [one for batch in batches for one in batch] == written
        assert into <= len(batches) <= into + bytes_ // appending.BATCH_BYTES


async def test_ten_thousand_commands_ahead_do_not_wait_for_a_server_that_waits_for_its_answers_to_be_taken() -> None:
    """It reads no more commands until it is rid of its answers; and both sockets hold but a few hundred of either."""
    here, there = socket.socketpair()
    for side in (here, there):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 << 10)
    ours, its = (trio.SocketStream(trio.socket.from_stdlib_socket(side)) for side in (here, there))
    said: list[bytes] = []

    async def serve() -> None:
        heard = b""
        async for some in its:
            *lines, heard = (heard + some).split(b"\r\n")
            for line in lines:
                tag, _, name = line.partition(b" STATUS ")
                await its.send_all(b"* STATUS %b (MESSAGES 1)\r\n%b OK done\r\n" % (name.split()[0], tag))

    connection = Connection("server", ours, answer_s=5.0)
    async with ours, its, trio.open_nursery() as nursery:  # the server, until all are answered
        nursery.start_soon(serve)
        commands = [
            await connection.start(
                b"STATUS ", MailboxName(b"folder-%d" % n), b" (MESSAGES)", take=lambda one: said.append(one.head)
            )
            for n in range(10_000)
        ]
        for command in commands:
            await connection.done(command)
        nursery.cancel_scope.cancel()
    assert said == [b'* STATUS "folder-%d" (MESSAGES 1)' % n for n in range(10_000)]


@pytest.mark.parametrize("capabilities", [RICH, RICH.replace(" LITERAL+", ""), RICH.replace(" MULTIAPPEND", "")])
@pytest.mark.parametrize("locks", [False, True], ids=["", "locks for an APPEND"])
@pytest.mark.parametrize("batches", [1, 2, 4])
async def test_a_folder_keeps_its_order_over_several_connections(
    capabilities: str, locks: bool, batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "GATE_S", 0.2)
    monkeypatch.setattr(pace, "FIRST", batches)
    written = many(120, seed=7)
    server = FakeImap(capabilities, locks_for_append=locks, appends_meet=2)
    async with open_fake(server), an_endpoint(server, tmp_path, answer_s=30.0) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        assert await target.write_items(written, 1) == ()
        for folder_id, name in ((INBOX_ID, "INBOX"), (SENT_ID, "Sent")):
            assert in_order(server, name) == [item.content for item in written if item.state.folder_id == folder_id]
        assert 1 < server.appending_max <= 8


async def test_a_page_is_cut_as_the_ones_before_it_took(tmp_path: Path) -> None:
    server = FakeImap()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        order = target.session.append_order
        written = [one for one in many(345, seed=7) if one.state.folder_id == INBOX_ID]

        async def appends(some: Sequence[ItemContent]) -> int:
            server.quirk.commands.clear()
            await target.write_items(some, 1)
            return len([command for command in server.quirk.commands if command.startswith(b"APPEND")])

        await appends(written[:40])
        assert order.pace == Pace()  # a small one says nothing
        await appends(written[40:150])
        assert order.pace != Pace()
        for took, batches, some in ((Took(1.0, 9.0), 1, written[150:230]), (Took(90.0, 1.0), 4, written[230:])):
            order.pace = Pace()
            order.pace.note([took])
            assert await appends(some) == batches
        assert in_order(server, "INBOX") == [item.content for item in written]


async def test_what_a_batch_waits_for_the_one_before_is_not_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, note = appending._Batch._answer, Pace.note
    noted: list[Took] = []

    async def answer_late(batch: appending._Batch, *given: Any) -> Any:
        if batch.before is None:
            await trio.sleep(1)
        return await answer(batch, *given)

    def note_too(pace: Pace, batches: Sequence[Took]) -> None:
        noted.extend(batches)
        note(pace, batches)

    monkeypatch.setattr(appending._Batch, "_answer", answer_late)
    monkeypatch.setattr(Pace, "note", note_too)
    server = FakeImap(appends_meet=2)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        await target.write_items([one for one in many(70, seed=7) if one.state.folder_id == INBOX_ID], 1)
    first, *_, last = noted
    assert first.sending_s + first.end_s >= 1 > last.sending_s + last.end_s


@pytest.mark.parametrize("refused", [3, 60])
async def test_a_refused_message_is_reported_and_the_rest_is_written_once(refused: int, tmp_path: Path) -> None:
    written = many(120, seed=8)
    bad_content = written[refused].content
    server = FakeImap(RICH, refuse_append=lambda content: "not this one" if content == bad_content else None)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        (bad,) = await target.write_items(written, 1)
        assert bad.state == written[refused].state
        found = sorted(content for name in ("INBOX", "Sent") for content in in_order(server, name))
        assert found == sorted(item.content for item in written if item is not written[refused])


async def appended(server: FakeImap, tmp_path: Path, *, refused: Sequence[int]) -> int:
    """A page of 512 messages in one folder, of which these are refused: the others are there once, in their order.
    How many APPENDs that took, with those of a second try if the connection was lost."""
    written = []
    for number in range(512):
        content = b"Subject: %s\r\n\r\n" % (b"bad %d" % number if number in refused else b"%d" % (number // 3))
        item_id, received_ms = ItemId(number.to_bytes(16, "big")), 1_700_000_000_000 + number // 3 * 1000
        hash_ = content_hash(content)
        state = ItemState(item_id, INBOX_ID, number + 1, number + 1, received_ms, len(content), hash_, number % 2, ())
        written.append(ItemContent(state, content))
    server.refuse_append = lambda content: "not this one" if content.startswith(b"Subject: bad") else None
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        try:
            bad = await target.write_items(written, 1)
        except* EndpointUnavailable:
            await target.claim(2)
            bad = await target.write_items(written, 2)
        assert [item.state for item in bad] == [written[at].state for at in refused]
        assert in_order(server, "INBOX") == [item.content for at, item in enumerate(written) if at not in refused]
        digests = dict((await target.account()).digests)
        assert digests[INBOX_ID].items == len(written) - len(refused)
        return len([command for command in server.quirk.commands if command.startswith(b"APPEND")])


def without_appenduid(command: bytes, data: bytes) -> bytes:
    return re.sub(rb"\[APPENDUID [^\]]*\] ", b"", data) if command.startswith(b"APPEND") else data


@pytest.mark.parametrize("refused", [[0], [300], [511], [9, 10], [0, 255, 256, 511]], ids=str)
@pytest.mark.parametrize("keeps", [False, True], ids=["", "keeps those before"])
async def test_a_refused_batch_is_halved(
    refused: list[int], keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "FIRST", 1)
    server = FakeImap(keeps_before_refused=keeps)
    assert await appended(server, tmp_path, refused=refused) <= 1 + 2 * 9 * len(refused)


@pytest.mark.parametrize("keeps", [False, True], ids=["", "keeps those before"])
async def test_a_batch_of_a_server_that_refuses_many_is_not_halved_without_end(
    keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "FIRST", 1)
    server = FakeImap(keeps_before_refused=keeps)
    appends = await appended(server, tmp_path, refused=range(0, 512, 2))
    assert appends <= 512 + appending.REFUSALS_MAX


@pytest.mark.parametrize("keeps", [False, True], ids=["", "keeps those before"])
async def test_a_refused_batch_is_written_once_where_the_server_does_not_say_what_it_took(
    keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a half brought must not be taken for what the server kept of the next one."""
    monkeypatch.setattr(pace, "FIRST", 1)
    server = FakeImap(keeps_before_refused=keeps, quirk=Quirk(answer=without_appenduid))
    await appended(server, tmp_path, refused=[40, 300, 400])


@pytest.mark.parametrize("word", [b"", b"* BYE not so\r\n"], ids=["", "BYE"])
@pytest.mark.parametrize("answers", range(8))
async def test_a_connection_that_ends_while_a_batch_is_halved_loses_and_doubles_nothing(
    answers: int, word: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some halves are there, some are refused, of one nobody knows: the next process finds out."""
    monkeypatch.setattr(pace, "FIRST", 1)
    left = answers

    def cut(command: bytes, data: bytes) -> bytes:
        nonlocal left
        left -= command.startswith(b"APPEND")
        if left < 0:
            server.quirk.answer = None
            server.quirk.cut_after = server.quirk.sent + len(word)
            return word + data
        return data

    server = FakeImap(quirk=Quirk(answer=cut))
    await appended(server, tmp_path, refused=[7, 300])
    assert left < 0


async def test_a_message_without_bytes_is_looked_for_in_its_own_folder(tmp_path: Path) -> None:
    """The page behind it, which is of another folder with the same UIDs, has been asked for by then."""

    def silent(command: bytes, data: bytes) -> bytes:
        is_page = command.startswith(b"UID FETCH 1:2 ") and b"BODY.PEEK[]" in command and b"Subject: a" in data
        return data[data.index(b"* 2 FETCH") :] if is_page else data

    server = FakeImap(RICH, quirk=Quirk(answer=silent))
    for folder in ("INBOX", "Other"):
        for number in range(2):
            server.add(folder, b"Subject: %s %d\r\n\r\n" % (b"a" if folder == "INBOX" else b"b", number))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        first = await source.read_seed(None, bytes_max=1 << 20, items_max=2)
        second = await source.read_seed(first.cursor, bytes_max=1 << 20, items_max=2)
        assert [item.content for item in first.items] == [b"Subject: a 0\r\n\r\n", b"Subject: a 1\r\n\r\n"]
        assert [item.content for item in second.items] == [b"Subject: b 0\r\n\r\n", b"Subject: b 1\r\n\r\n"]
        assert not first.bad
        assert not second.bad


async def test_a_page_that_was_asked_for_ahead_is_dropped_for_another_one(tmp_path: Path) -> None:
    server = FakeImap(RICH)
    for number in range(9):
        server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        for _ in range(6):  # more often than there are connections
            first = await source.read_seed(None, bytes_max=1 << 20, items_max=2)
            again = await source.read_seed(first.cursor, bytes_max=1 << 20, items_max=3)
            assert [item.content for item in again.items] == [b"Subject: %d\r\n\r\n" % n for n in (2, 3, 4)]
        cursor, read = None, []
        while True:
            page = await source.read_seed(cursor, bytes_max=1 << 20, items_max=2)
            read += [item.content for item in page.items]
            cursor = page.cursor
            if page.done:
                break
        assert read == [b"Subject: %d\r\n\r\n" % number for number in range(9)]


async def test_under_the_lock_all_folders_are_looked_at_no_more_often_than_needed(tmp_path: Path) -> None:
    """A mailbox may have thousands, and its user waits. The lock is the look that the feed is then read from, and what
    the feed tells is read from where it was; whoever reads the feed again looks again."""
    server = FakeImap()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        after = await source.head()

        def looks() -> int:
            return sum(command.upper().startswith(b"LIST ") for command in server.quirk.commands)

        server.add("INBOX", b"Subject: before the lock\r\n\r\n")
        await source.claim(7)
        before = looks()
        at = await source.lock(7)
        batch = await source.read_feed(after, changes_max=100)
        assert (batch.through.modseq, len(batch.items)) == (at.modseq, 1)
        read, _, _ = await source.fetch([state.item_id for state in batch.items], bytes_max=1 << 20)
        assert [item.content for item in read] == [b"Subject: before the lock\r\n\r\n"]
        assert looks() == before + 1
        server.add("INBOX", b"Subject: past the lock\r\n\r\n")
        assert len((await source.read_feed(batch.through, changes_max=100)).items) == 1
        assert looks() == before + 2
        await source.lock(7)
        await source.unlock(7)
        server.add("INBOX", b"Subject: after the lock\r\n\r\n")
        assert len((await source.read_feed(batch.through, changes_max=100)).items) == 2


async def test_what_the_feed_told_and_went_since_is_told_again(tmp_path: Path) -> None:
    server = FakeImap()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        after = await source.head()
        server.add("INBOX", b"Subject: goes\r\n\r\n")
        batch = await source.read_feed(after, changes_max=100)
        server.folders["INBOX"].mail.clear()
        server.tick()
        told = [state.item_id for state in batch.items]
        assert await source.fetch(told, bytes_max=1 << 20) == ((), (), ())
        again = await source.read_feed(batch.through, changes_max=100)
        assert {gone.id for gone in again.items_gone} == set(told)


@pytest.mark.parametrize("read_by", ["pages", "the feed"])
async def test_a_folder_that_was_renamed_and_made_anew_gives_its_own_bytes(read_by: str, tmp_path: Path) -> None:
    """The new one has the name, and messages with the same UIDs."""
    server = FakeImap()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        after = await source.head()
        for number in range(5):
            server.add("Sent", b"Subject: sent %d\r\n\r\n" % number)

        def rename() -> None:
            server.folders["Sent of old"] = server.folders.pop("Sent")
            for number in range(5):
                server.add("Sent", b"Subject: new! %d\r\n\r\n" % number)

        if read_by == "pages":
            page = await source.read_seed(None, bytes_max=1 << 20, items_max=1)
            rename()
            read = list(page.items)
            while not page.done:
                page = await source.read_seed(page.cursor, bytes_max=1 << 20, items_max=1)
                read += page.items
        else:
            batch = await source.read_feed(after, changes_max=100)
            rename()
            contents, _, _ = await source.fetch([state.item_id for state in batch.items], bytes_max=1 << 20)
            read = list(contents)
        names = {folder.folder_id: folder.name for folder in await source.read_hierarchy()}
        of_old = [item for item in read if names[item.state.folder_id] == "Sent of old"]
        assert sorted(item.content for item in of_old) == server.contents()["Sent of old"]
        assert {item.content for item in read} - {item.content for item in of_old} <= {*server.contents()["Sent"]}


@pytest.mark.parametrize("refuses", [False, True], ids=["", "no STATUS of the folder that is selected"])
async def test_a_folder_is_opened_once_for_many_pages(refuses: bool, tmp_path: Path) -> None:
    """To open one of 50,000 messages takes Dovecot longer than to read a page of it. What was read is still of the
    folder of that name: where the server does not say so, it is opened again."""
    server, pages = FakeImap(), 0
    for number in range(20):
        server.add("INBOX", b"Subject: %d\r\n\r\n" % number)

    def answer(command: bytes, data: bytes) -> bytes:
        if refuses and command.startswith(b"STATUS"):
            return data.split(b"\r\n")[-2].split(b" ")[0] + b" NO it is selected\r\n"
        return data

    server.quirk.answer = answer
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        await source.head()
        server.quirk.commands.clear()
        cursor, read, done = None, list[bytes](), False
        while not done:
            page = await source.read_seed(cursor, bytes_max=1 << 20, items_max=2)
            read += [item.content for item in page.items]
            cursor, done, pages = page.cursor, page.done, pages + 1
    assert sorted(read) == server.contents()["INBOX"]
    opened = sum(command.startswith(b"EXAMINE") for command in server.quirk.commands)
    assert pages >= 10
    assert opened >= pages - 1 if refuses else opened == 1


# ---- fewer connections than wanted

WORDS = [
    b"NO [LIMIT] too many connections",
    b"NO [ALERT] Too many simultaneous connections. (Failure)",
    b"* BYE not now",
]


@pytest.mark.parametrize("word", WORDS, ids=["LIMIT", "NO", "BYE"])
@pytest.mark.parametrize("most", [1, 2, 3])
async def test_a_mailbox_gets_on_with_as_many_connections_as_the_server_lets_it_have(
    most: int, word: bytes, tmp_path: Path
) -> None:
    """Written and read at once, and watched, so that each kind of use is refused by turns."""
    written = many(120, seed=13)
    server = FakeImap(f"{RICH} IDLE", connections_max=most, one_too_many=word)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        async with trio.open_nursery() as nursery:  # two pages at a time, as a seed writes them
            for half in (written[:60], written[60:]):
                nursery.start_soon(target.write_items, half, 1)
        await endpoint.aclose()
        kept = sorted(content for some in server.contents().values() for content in some)
        assert kept == sorted(item.content for item in written)
    server.port = 0
    async with open_fake(server), an_endpoint(server, tmp_path / "source", poll_s=0.1) as endpoint:
        source = await a_source(endpoint)
        cursor, read = None, []
        heard = trio.Event()

        async def listen() -> None:
            await source.wait_feed(await source.head())
            heard.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            while True:
                page = await source.read_seed(cursor, bytes_max=1 << 20, items_max=25)
                read += [item.content for item in page.items]
                cursor = page.cursor
                await source.account()  # wants a connection while one holds a page that was asked for ahead
                if page.done:
                    break
            server.add("INBOX", b"Subject: new\r\n\r\n")
            with trio.fail_after(30):
                await heard.wait()
        assert sorted(read) == kept
    assert server.refused < 12


async def test_the_only_connection_is_refused_in_the_servers_words(tmp_path: Path) -> None:
    server = FakeImap()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        server.connections_max = 0
        with pytest.raises(EndpointBusy, match=r"busy \(log in: too many connections\)"):
            await source.head()
        server.connections_max = 1
        await source.head()


async def test_more_connections_are_tried_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "batches", lambda _, *, at_most: max(1, at_most))
    server = FakeImap(connections_max=2, appends_meet=2)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        written = many(300, seed=14)
        await target.write_items(written[:100], 1)
        assert (server.appending_max, server.refused) == (2, 1)
        await target.write_items(written[100:200], 1)
        assert server.refused == 1
        server.connections_max = None
        monkeypatch.setattr(lending, "MORE_S", 0.0)
        now = trio.current_time()
        monkeypatch.setattr(trio, "current_time", lambda: now + 301)
        await target.write_items(written[200:201], 1)  # which asks for a connection, and may have them all again
        server.appends_meet = 3
        with trio.fail_after(30):
            await target.write_items(written[201:], 1)
        assert server.appending_max > 2


async def test_connections_that_nobody_used_for_long_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move that waits for changes looks by one of them, again and again; the others are the server's again."""
    server = FakeImap(appends_meet=2)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(folders(), 1)
        await target.write_items(many(100, seed=15), 1)
        assert server.connections > 1  # mostly four; one that is done early is used again
        start = trio.current_time()
        for seconds in (30, 70):
            monkeypatch.setattr(trio, "current_time", lambda later=start + seconds: later)
            await target.account()
        monkeypatch.undo()
        with trio.fail_after(5):
            while server.connections > 1:  # noqa: ASYNC110 (the other side of a socket)
                await trio.sleep(0.01)
