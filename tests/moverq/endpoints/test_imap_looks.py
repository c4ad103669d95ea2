"""A look into a large folder is told in parts: what is held does not grow with the folder, and nothing goes missing."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from moverq.endpoints.imap import listing
from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.listing import look_into
from moverq.endpoints.imap.reading import Reading
from moverq.endpoints.mirrored import intents, refresh
from moverq.endpoints.mirrored.learned import Look
from moverq.endpoints.mirrored.listed import Listed, Wanted
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.endpoints.mirrored.mirror import Mirror
from moverq.errors import EndpointBusy, EndpointUnavailable
from moverq.model.change import ChangeBatch, Gone, ItemContent, Watermark
from moverq.model.ids import FolderId, InstanceId
from tests.moverq.endpoints.test_imap_quirks import (
    a_source,
    a_target,
    an_endpoint,
    cut_before_the_answer_to_an_append,
    expected,
    wanted_of,
)
from tests.moverq.endpoints.test_imap_quirks import items as items_of
from tests.support.fake_imap import RICH, FakeImap, open_fake

COUNT = 30
PART = 4
JANUARY_MS = 1_577_836_800_000
PLAIN_LOOKS = RICH.replace(" CONDSTORE QRESYNC", "")
"""Each look is at everything."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")
    monkeypatch.setattr(listing, "PART_ITEMS", PART)
    monkeypatch.setattr(refresh, "ROWS_AT_ONCE", PART)


def a_server(capabilities: str = RICH, *, gaps: int = 1) -> FakeImap:
    """Messages in INBOX, of which each UID is up to `gaps` above the one before, and a few in another folder."""
    server, rng = FakeImap(capabilities), random.Random(9)
    for number in range(COUNT):
        server.folders["INBOX"].uidnext += rng.randrange(gaps)
        date = f"{1 + number % 28:02d}-Jan-2020 00:00:00 +0000"
        server.add("INBOX", b"Subject: %d\r\n\r\n" % number, flags="\\Seen" if number % 3 else "", date=date)
    server.add("Other", b"Subject: another\r\n\r\n")
    return server


async def items(source: MirroredMailbox) -> list[ItemContent]:
    page = await source.read_seed(None, bytes_max=1 << 20, items_max=1000)
    assert page.done
    return list(page.items)


async def contents(source: MirroredMailbox) -> list[bytes]:
    return sorted(item.content for item in await items(source))


def new_uids(server: FakeImap) -> None:
    """INBOX is made anew: every UID is another message's."""
    inbox = server.folders["INBOX"]
    inbox.validity += 100
    inbox.mail.reverse()
    for uid, mail in enumerate(inbox.mail, 1):
        mail.uid = uid


def refuses(*uids: bytes) -> Callable[[bytes, bytes], bytes]:
    """A server that does not want to list these."""

    def answer(command: bytes, data: bytes) -> bytes:
        if b"INTERNALDATE" in command and command.split(b" ")[2] in uids:
            return data.split(b"\r\n")[-2].split(b" ")[0] + b" NO no such message\r\n"
        return data

    return answer


def there(server: FakeImap) -> list[bytes]:
    return sorted(content for some in server.contents().values() for content in some)


def listings(server: FakeImap) -> list[bytes]:
    """The UIDs that were asked for."""
    return [command.split(b" ")[2] for command in server.quirk.commands if b"INTERNALDATE" in command]


def rows(mirror: Mirror) -> int:
    return int(mirror.db.execute("SELECT count(*) FROM items").get)


@pytest.mark.parametrize("capabilities", [RICH, PLAIN_LOOKS], ids=["CONDSTORE", "no CONDSTORE"])
@pytest.mark.parametrize("gaps", [1, 50])
async def test_a_large_folder_is_told_in_parts(capabilities: str, gaps: int, tmp_path: Path) -> None:
    server = a_server(capabilities, gaps=gaps)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        assert await contents(source) == there(server)
        asked = listings(server)
        assert len(asked) >= COUNT // PART
        assert asked[0].startswith(b"1:")
        before = await source.head()
        lost = server.folders["INBOX"].mail.pop(2)
        server.folders["INBOX"].mail[20].flags.add("\\Flagged")
        server.folders["INBOX"].mail[20].modseq = server.tick()
        server.add("INBOX", b"Subject: new\r\n\r\n")
        if capabilities == PLAIN_LOOKS:
            batch = await source.read_feed(before, changes_max=100)
            assert len(batch.items_gone) == 1
            assert len(batch.items) == 2
            assert lost.content not in await contents(source)
            assert await contents(source) == there(server)


async def test_a_part_is_in_the_mirror_before_the_last_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, seen = a_server(), list[int]()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        ask = source.session.mirror.ask

        async def counted(question: Callable[[Mirror], object]) -> object:
            seen.append(await ask(rows))
            return await ask(question)

        monkeypatch.setattr(source.session.mirror, "ask", counted)
        assert (await source.summary()).items == COUNT + 1
    assert set(range(0, COUNT, PART)) <= set(seen)


@pytest.mark.parametrize("revalidated", [False, True], ids=["", "made anew meanwhile"])
@pytest.mark.parametrize("after", range(100, 3000, 97))
async def test_a_look_that_is_cut_off_between_its_parts_is_made_again(
    after: int, revalidated: bool, tmp_path: Path
) -> None:
    """Nothing is missing, nothing twice; and UIDs that mean something else by then are not taken for the old ones."""
    server = a_server()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        server.quirk.cut_after = server.quirk.sent + after
        cut = False
        try:
            await source.head()
        except* EndpointUnavailable:
            cut = True
        assert cut or server.quirk.cut_after is not None
        server.quirk.cut_after = None
        if revalidated:
            new_uids(server)
        found = {item.content: (item.state.received_ms, item.state.flags) for item in await items(source)}
        assert sorted(found) == there(server)
        for mail in server.folders["INBOX"].mail:
            day = int(mail.date[:2]) - 1
            assert found[mail.content] == (JANUARY_MS + day * 86_400_000, int("\\Seen" in mail.flags))


async def test_a_folder_that_is_made_anew_between_its_listing_and_the_look_has_other_items(tmp_path: Path) -> None:
    """No part of it is held against what the mirror has of an earlier one."""
    server = a_server(PLAIN_LOOKS)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        before = {item.state.item_id: item.content for item in await items(source)}

        def answer(command: bytes, data: bytes) -> bytes:
            if command.startswith(b"LIST"):
                server.quirk.answer = None
                new_uids(server)
            return data

        server.quirk.answer = answer
        found = await items(source)
        assert sorted(item.content for item in found) == there(server)
        for item in found:
            assert before.get(item.state.item_id, item.content) == item.content


async def test_the_last_part_does_not_count_before_all_that_was_lost_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = a_server()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        assert await contents(source) == there(server)
        server._modseq = 1  # the server was restored: all is looked at
        del server.folders["INBOX"].mail[1]

        async def cut(*given: object, **more: object) -> None:
            raise EndpointUnavailable(endpoint="fake", why="the connection was lost")

        with monkeypatch.context() as once:
            once.setattr(refresh, "_put", cut)
            with pytest.raises(EndpointUnavailable):
                await source.head()
        assert (await source.summary()).items == COUNT


@pytest.mark.parametrize("at", range(0, 2000, 97))
async def test_what_was_lost_is_not_forgotten_where_a_look_is_cut_off(at: int, tmp_path: Path) -> None:
    server = a_server(PLAIN_LOOKS)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        await source.head()
        inbox = server.folders["INBOX"]
        del inbox.mail[1], inbox.mail[10], inbox.mail[-1]
        server.add("INBOX", b"Subject: new\r\n\r\n")
        server.quirk.cut_after = server.quirk.sent + at
        try:
            await source.head()
        except* EndpointUnavailable:
            pass
        server.quirk.cut_after = None
        assert await contents(source) == there(server)


async def test_a_listing_that_leaves_a_message_out_is_asked_for_once_more(tmp_path: Path) -> None:
    """The server counts them, so it is seen: otherwise a message would stay behind and nobody would miss it."""
    server = a_server()
    left_out = 0

    def answer(command: bytes, data: bytes) -> bytes:
        nonlocal left_out
        lines = data.split(b"\r\n")
        if b"INTERNALDATE" in command and not left_out:
            left_out += 1
            del lines[1]
        return b"\r\n".join(lines)

    server.quirk.answer = answer
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        assert await contents(source) == there(server)
    assert left_out == 1
    assert b"1:*" in listings(server)


async def test_a_server_that_counts_more_than_it_lists_is_said_to_do_so(tmp_path: Path) -> None:
    server = a_server()

    def answer(command: bytes, data: bytes) -> bytes:
        lines = data.split(b"\r\n")
        return b"\r\n".join(line for line in lines if b"UID 7 " not in line or b"INTERNALDATE" not in line)

    server.quirk.answer = answer
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        with pytest.raises(EndpointBusy, match=r"'INBOX': it says that there are 30, and lists 29"):
            await source.head()
        server.quirk.answer = None
        assert await contents(source) == there(server)


@pytest.mark.parametrize("told", [b"* 3 EXPUNGE", b"* VANISHED 7"])
async def test_a_message_that_goes_while_it_is_listed_is_no_reason_to_list_again(told: bytes, tmp_path: Path) -> None:
    server = a_server()

    def answer(command: bytes, data: bytes) -> bytes:
        if b"INTERNALDATE" not in command or b"UID 7 " not in data:
            return data
        server.folders["INBOX"].mail = [mail for mail in server.folders["INBOX"].mail if mail.uid != 7]
        lines = data.split(b"\r\n")
        return b"\r\n".join([line for line in lines[:-2] if b"UID 7 " not in line] + [told, *lines[-2:]])

    server.quirk.answer = answer
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        assert await contents(source) == there(server)
    assert b"1:*" not in listings(server)[: COUNT // PART]


@pytest.mark.parametrize("capabilities", [RICH, PLAIN_LOOKS], ids=["CONDSTORE", "no CONDSTORE"])
async def test_what_is_in_doubt_in_a_large_folder_is_looked_for_in_parts(capabilities: str, tmp_path: Path) -> None:
    """An APPEND whose answer nobody heard, into a folder that holds much already."""
    server, written = FakeImap(capabilities), items_of(3 * COUNT)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written[:COUNT], 1) == ()
        cut_before_the_answer_to_an_append(server)
        with pytest.raises(ExceptionGroup):
            await target.write_items(written[COUNT:], 1)
        await target.claim(2)
        server.quirk.commands.clear()
        assert await target.write_items(written[COUNT:], 2) == ()
        assert server.contents() == expected(written)
        asked = listings(server)
        assert len(asked) > COUNT // PART
        assert b"1:*" not in asked


async def test_the_messages_of_a_large_folder_that_was_rebuilt_are_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of the folder a message was in, and is in now."""
    monkeypatch.setattr(refresh, "ROWS_MAX", 2 * PART)
    server = a_server()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        after, before = await source.head(), await items(source)
        new_uids(server)
        batch = await source.read_feed(after, changes_max=1000)
        assert batch.items_gone == ()
        now = {item.state.item_id: item.content for item in await items(source)}
        assert now == {item.state.item_id: item.content for item in before}


async def test_what_was_deleted_goes_from_a_large_folder_that_was_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "ROWS_MAX", 2 * PART)
    written = items_of(2 * COUNT)
    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        new_uids(server)
        deleted = tuple(Gone(item.state.item_id, 100 + at) for at, item in enumerate(written) if at % 4 < 2)
        through = Watermark(b"f" * 16, InstanceId(b"s" * 16), 200)
        assert await target.apply_changes(ChangeBatch(through=through, more=False, items_gone=deleted), 1) == ()
        left = [item for at, item in enumerate(written) if at % 4 >= 2]
        assert dict((await target.account()).digests) == wanted_of([item.state for item in left])
        assert server.contents() == expected(left)
        assert not await target.session.mirror.ask(lambda mirror: bool(intents.due(mirror)))


@pytest.mark.parametrize("at_once", [1, 1000])
@pytest.mark.parametrize("after", [None, *range(600, 3000, 130)])
async def test_a_part_that_the_server_refuses_is_asked_for_with_the_others_at_once(
    after: int | None, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one might that does not like UIDs that are not there. `after`: some of it is known already."""
    monkeypatch.setattr(refresh, "ROWS_AT_ONCE", at_once)
    server = a_server()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        if after is not None:
            server.quirk.cut_after = server.quirk.sent + after
            try:
                await source.head()
            except* EndpointUnavailable:
                pass
        server.quirk.commands.clear()
        server.quirk.answer = refuses(b"17:20", b"21:24")
        assert await contents(source) == there(server)
        assert b"1:*" in listings(server)


async def test_a_server_may_work_on_several_parts_at_once() -> None:
    """RFC 3501, section 5.5: what it says does not tell of which command it comes. Dovecot does, with long answers."""
    rng = random.Random(4)
    for _ in range(200):
        parts = rng.randint(2, listing.AHEAD)
        items = parts * PART
        listed = Listed(wire=b"INBOX", validity=7, uidnext=items + 1, items=items, modseq=5)
        lines = [
            b'* %d FETCH (UID %d FLAGS () INTERNALDATE "01-Feb-2024 10:20:30 +0100" RFC822.SIZE 42)' % (uid, uid)
            for uid in range(1, items + 1)
        ]
        left = {number: lines[number * PART : (number + 1) * PART] for number in range(parts)}
        said = [b"* %d EXISTS" % items, b"* OK [UIDVALIDITY 7] ", b"* OK [HIGHESTMODSEQ 5] ", b"M1 OK done"]
        while left:
            number = rng.choice(list(left))
            if left[number]:
                said.append(left[number].pop(0))
            else:
                said.append(b"M%d OK done" % (number + 2))
                del left[number]
        ours, servers = trio.testing.memory_stream_pair()
        await servers.send_all(b"\r\n".join(said) + b"\r\n")
        connection = Connection("here", ours, 5.0, frozenset([b"CONDSTORE"]))
        told: list[Look] = []

        async def on_look(look: Look, told: list[Look] = told) -> None:
            told.append(look)

        folder_id = FolderId(b"i" * 16)
        await look_into(
            connection, [Wanted(folder_id=folder_id, wire=b"INBOX", modseq=0, in_parts=listed)], on_look=on_look
        )
        assert [sorted(seen.uid for seen in look.seen) for look in told] == [
            list(range(number * PART + 1, (number + 1) * PART + 1)) for number in range(parts)
        ]
        assert [look.last for look in told] == [(number + 1) * PART for number in range(parts - 1)] + [None]


async def test_many_new_messages_do_not_wait_for_the_end_of_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once something is known a new message may be one that changed folders, and waits to be told apart; but not so
    many that what is held would grow with the mailbox."""
    monkeypatch.setattr(refresh, "ROWS_MAX", 2 * PART)
    server = a_server()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        await source.head()
        for number in range(COUNT):
            server.add("Import", b"Subject: import %d\r\n\r\n" % number)
        held: list[int] = []
        take = refresh._Pending.take

        def counted(self: refresh._Pending) -> object:
            held.append(self.rows)
            return take(self)

        monkeypatch.setattr(refresh._Pending, "take", counted)
        assert await contents(source) == there(server)
        assert 0 < max(held) <= 4 * PART


async def test_a_server_may_work_on_several_pages_at_once() -> None:
    """Bodies that come early are those of their page, not of the page whose turn it is; none is asked for twice."""
    rng = random.Random(5)
    for _ in range(200):
        pages = [range(number * PART + 1, (number + 1) * PART + 1) for number in range(rng.randint(2, 5))]
        left = {number: list(page) for number, page in enumerate(pages)}
        said = [b"* OK [UIDVALIDITY 7] ", b"M1 OK done"]
        tags = [2, *(3 + 2 * number for number in range(len(pages) - 1))]  # behind all but the first comes a STATUS
        while left:
            number = rng.choice(list(left))
            if left[number]:
                uid = left[number].pop(0)
                said.append(b"* %d FETCH (UID %d BODY[] {4}\r\n%04d)" % (uid, uid, uid))
            else:
                said.append(b"M%d OK done" % tags[number])
                if number:
                    said += [b"* STATUS INBOX (UIDVALIDITY 7)", b"M%d OK done" % (tags[number] + 1)]
                del left[number]
        ours, servers = trio.testing.memory_stream_pair()
        await servers.send_all(b"\r\n".join(said) + b"\r\n")
        connection = Connection("here", ours, 5.0)
        readings = [Reading(connection, page, validity=7) for page in pages]
        for reading in readings:
            await reading.begin(b"INBOX")
        for reading, page in zip(readings, pages, strict=True):
            assert await reading.end() == {uid: b"%04d" % uid for uid in page}
