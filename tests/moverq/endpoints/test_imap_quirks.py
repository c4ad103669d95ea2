"""Servers that do wrong: each quirk ends in a clear error and a retry, or in a reported item; nothing lost or doubled.

What a retry is here: the same verbs once more with a higher token, as the next tenure of a job does.
"""

import os
import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from moverq.endpoints.base import FolderStep, SeedPage, StepKind, Target
from moverq.endpoints.imap import connection, reading, writing
from moverq.endpoints.imap.endpoint import open_endpoint
from moverq.endpoints.imap.session import ImapSession
from moverq.endpoints.imap.wire import uid_sets
from moverq.endpoints.mirrored.endpoint import MirroredEndpoint
from moverq.endpoints.mirrored.learned import _within
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.endpoints.mirrored.mirror import FolderRow, Mirror
from moverq.endpoints.mirrored.utf7 import from_utf7
from moverq.errors import EndpointBusy, EndpointUnavailable, MoveError, RequestRefused, leaves
from moverq.model.change import ChangeBatch, Flag, FolderState, Gone, ItemContent, ItemState, Watermark
from moverq.model.digest import FolderDigest
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.fake_imap import PLAIN, RICH, Cut, FakeImap, Folder, Quirk, _is_in, _Session, open_fake

STRIDE = 1 if os.environ.get("MOVERQ_CRASH_FULL") == "1" else 67
"""Bytes between two places where a connection is cut: a prime, so that the cuts fall everywhere within answers."""
INBOX_ID = FolderId(b"i" * 16)
SENT_ID = FolderId(b"s" * 16)
KINDS = {
    "rich": RICH,
    "plain": PLAIN,
    "no UIDPLUS": RICH.replace(" UIDPLUS", ""),
    "no CONDSTORE": RICH.replace(" CONDSTORE QRESYNC", ""),
    "no LITERAL+": RICH.replace(" LITERAL+", ""),
    "LITERAL-": RICH.replace("LITERAL+", "LITERAL-"),
    "no MULTIAPPEND": RICH.replace(" MULTIAPPEND", ""),
    "no LIST-STATUS": RICH.replace(" LIST-STATUS", ""),
}


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")


async def address_of(mailbox_id: MailboxId) -> str:
    return "ada@example.org"


def an_endpoint(server: FakeImap, path: Path, *, answer_s: float = 5.0, poll_s: float = 10.0):  # type: ignore[no-untyped-def]
    mirrors = path / "mirrors"
    return open_endpoint("fake", server.url, mirrors=mirrors, address_of=address_of, answer_s=answer_s, poll_s=poll_s)


async def a_source(endpoint: MirroredEndpoint) -> MirroredMailbox:
    instance = InstanceId(new_id())
    await endpoint.adopt(MailboxId(new_id()), instance, "ada@example.org")
    return endpoint.mailbox(instance)


def items(count: int) -> list[ItemContent]:
    made = []
    for number in range(count):
        content = b"Subject: %d\r\n\r\nbody\r\n" % (number // 2)  # every message twice: equal copies are two items
        state = ItemState(
            ItemId(b"item" + number.to_bytes(12, "big")),
            INBOX_ID if number % 3 else SENT_ID,
            number + 1,
            number + 1,
            1_700_000_000_000,
            len(content),
            xxhash.xxh3_128_digest(content),
            1,
            ("work",),
        )
        made.append(ItemContent(state, content))
    return made


def folders() -> list[FolderStep]:
    made = [
        FolderState(INBOX_ID, None, "INBOX", modseq=1, uidvalidity=1, uidnext=1),
        FolderState(SENT_ID, None, "Sent", modseq=2, uidvalidity=2, uidnext=1),
    ]
    return [FolderStep(StepKind.CREATE, folder) for folder in made]


async def a_target(endpoint: MirroredEndpoint) -> Target:
    target = endpoint.target(InstanceId(b"t" * 16))
    await target.create(MailboxId(b"m" * 16), 1)
    await target.apply_folders(folders(), 1)
    return target


async def write_all(target: Target, token: int, written: list[ItemContent]) -> None:
    await target.create(MailboxId(b"m" * 16), token)
    await target.apply_folders(folders(), token)
    for at in range(0, len(written), 3):
        assert await target.write_items(written[at : at + 3], token) == ()
    account = await target.account()
    assert sum(digest.items for _, digest in account.digests) == len(written)


def expected(written: list[ItemContent]) -> dict[str, list[bytes]]:
    names = {INBOX_ID: "INBOX", SENT_ID: "Sent"}
    return {
        name: sorted(item.content for item in written if item.state.folder_id == folder_id)
        for folder_id, name in names.items()
    }


async def succeeds(act: Callable[[], Awaitable[object]]) -> bool:
    """False: the connection was lost on the way."""
    try:
        await act()
    except* EndpointUnavailable:
        pass
    else:
        return True
    return False


def only(error: BaseException) -> MoveError:
    (leaf,) = {type(leaf): leaf for leaf in leaves(error)}.values()
    assert isinstance(leaf, MoveError), leaf
    return leaf


# ---- whatever it can or cannot do


@pytest.mark.parametrize("capabilities", KINDS.values(), ids=KINDS.keys())
async def test_a_target_is_written_whatever_the_server_can_do(capabilities: str, tmp_path: Path) -> None:
    written = items(9)
    async with open_fake(FakeImap(capabilities)) as server, an_endpoint(server, tmp_path) as endpoint:
        await write_all(endpoint.target(InstanceId(b"t" * 16)), 1, written)
        assert server.contents() == expected(written)


@pytest.mark.parametrize("capabilities", KINDS.values(), ids=KINDS.keys())
async def test_a_source_is_read_and_followed_whatever_the_server_can_do(capabilities: str, tmp_path: Path) -> None:
    async with open_fake(FakeImap(capabilities)) as server, an_endpoint(server, tmp_path) as endpoint:
        for number in range(5):
            server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
        source = await a_source(endpoint)
        after = await source.head()
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        assert sorted(item.content for item in page.items) == server.contents()["INBOX"]
        server.add("Archive", b"Subject: later\r\n\r\n")
        server.folders["INBOX"].mail[0].flags.add("\\Seen")
        server.folders["INBOX"].mail[0].modseq = server.tick()
        del server.folders["INBOX"].mail[1]
        server.tick()
        batch = await source.read_feed(after, changes_max=100)
        assert (len(batch.items), len(batch.items_gone)) == (2, 1)
        assert batch.hierarchy is not None


async def test_a_server_may_name_messages_by_the_billion_that_never_were_as_gone(tmp_path: Path) -> None:
    """RFC 7162 lets it, and one that has forgotten what was expunged does."""

    def answer(command: bytes, data: bytes) -> bytes:
        return b"* VANISHED (EARLIER) 2,4:4294967295\r\n" + data if b"CHANGEDSINCE" in command else data

    server = FakeImap(RICH, quirk=Quirk(answer=answer))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        for number in range(5):
            server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
        source = await a_source(endpoint)
        after = await source.head()
        server.folders["INBOX"].mail = [mail for mail in server.folders["INBOX"].mail if mail.uid in (1, 3)]
        server.tick()
        assert len((await source.read_feed(after, changes_max=100)).items_gone) == 3
        assert (await source.summary()).items == 2


@pytest.mark.parametrize("fetch", [b"OK", b"BAD"])
async def test_a_folder_that_loses_its_modseq_is_listed_in_full(fetch: bytes, tmp_path: Path) -> None:
    """What changed since is then all that the answer tells, or (RFC 7162, section 3.1.2.2) the question is BAD."""
    lost = False

    def answer(command: bytes, data: bytes) -> bytes:
        if lost and b"CHANGEDSINCE" in command and fetch == b"BAD":
            return re.sub(rb"(?s).*(M\d+) OK.*", rb"\1 BAD no modseq here\r\n", data)
        return re.sub(rb"\[HIGHESTMODSEQ \d+\]", b"[NOMODSEQ]", data) if lost else data

    async with (
        open_fake(FakeImap(RICH, quirk=Quirk(answer=answer))) as server,
        an_endpoint(server, tmp_path) as endpoint,
    ):
        for number in range(3):
            server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
        source = await a_source(endpoint)
        after = await source.head()
        server.add("INBOX", b"Subject: more\r\n\r\n")
        del server.folders["INBOX"].mail[0]
        lost = True
        batch = await source.read_feed(after, changes_max=100)
        assert (len(batch.items), len(batch.items_gone)) == (1, 1)


@given(
    st.sets(st.integers(1, 60)),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda run: (run[0], run[0] + run[1]))),
)
def test_who_is_within_runs(uids: set[int], runs: list[tuple[int, int]]) -> None:
    assert _within(uids, runs) == {uid for uid in uids if any(first <= uid <= last for first, last in runs)}


async def test_making_many_folders_reads_the_mirrors_folders_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a folder would be quadratic: two minutes for a mailbox of 600."""
    read = 0
    folders_of = Mirror.folders

    def counted(mirror: Mirror) -> list[FolderRow]:
        nonlocal read
        read += 1
        return folders_of(mirror)

    steps = folders() + [
        FolderStep(
            StepKind.CREATE, FolderState(FolderId(new_id()), SENT_ID, f"{n}", modseq=3, uidvalidity=3, uidnext=1)
        )
        for n in range(40)
    ]
    steps += [FolderStep(StepKind.UPDATE, attrs.evolve(step.folder, subscribed=False, modseq=4)) for step in steps[2:]]
    server = FakeImap()
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        monkeypatch.setattr(Mirror, "folders", counted)
        await target.apply_folders(steps, 1)
        assert read < 5
        assert len(await target.read_hierarchy()) == 42
    assert len(server.folders) == 42


async def test_names_that_the_server_refuses_and_that_have_one_plainer_form_stay_two_folders(tmp_path: Path) -> None:
    wanted = ["a%", "a*", "b%", "b_", "c"]
    steps = folders() + [
        FolderStep(StepKind.CREATE, FolderState(FolderId(new_id()), None, name, modseq=3, uidvalidity=3, uidnext=1))
        for name in wanted
    ]
    server = FakeImap(refuse_name=lambda name: "%" in name or "*" in name)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(steps, 1)
        assert sorted(folder.name for folder in await target.read_hierarchy()) == sorted(["INBOX", "Sent", *wanted])
        assert len(server.folders) == len(steps)
        told = "\n".join(await target.remarks())
        assert all(f"the folder name '{name}'" in told for name in ("a%", "a*", "b%"))


# ---- whose folders


NAMESPACES = {
    "one": (b'(("" "/")) NIL NIL', {b"INBOX", b"a", b"a/b"}, set()),
    "below INBOX": (b'(("INBOX." ".")) (("user." ".")) NIL', {b"INBOX", b"INBOX.a"}, {b"user.bob", b"user"}),
    "shared at the root": (b'(("INBOX." ".")) (("user." ".")) (("" "."))', {b"INBOX", b"INBOX.a"}, {b"user.b", b"c"}),
    "two that are the user's": (
        b'(("" "/")("Archive/" "/")) NIL NIL',
        {b"INBOX", b"a", b"Archive", b"Archive/b"},
        set(),
    ),
    "one in the other": (b'(("" "/")("x/mine/" "/")) NIL (("x/" "/"))', {b"a", b"x/mine/b"}, {b"x/b", b"x"}),
    "no separator at the end": (b'(("" "/")) NIL (("shared" "/"))', {b"shared mail", b"sharedness/a"}, {b"shared/a"}),
    "none of the user's": (b'NIL NIL (("shared/" "/"))', {b"INBOX", b"a"}, {b"shared/a"}),
}


@pytest.mark.parametrize(("said", "own", "foreign"), NAMESPACES.values(), ids=NAMESPACES.keys())
async def test_only_the_users_own_folders_are_moved_and_all_of_them(
    said: bytes, own: set[bytes], foreign: set[bytes], tmp_path: Path
) -> None:
    separator = b'"."' if b'"."' in said else b'"/"'

    def answer(command: bytes, data: bytes) -> bytes:
        return (
            data.replace(b'(("" "/")) NIL NIL', said)
            .replace(b'"/" "', separator + b' "')
            .replace(b'"/" NIL', separator)
        )

    async with (
        open_fake(FakeImap(PLAIN, quirk=Quirk(answer=answer))) as server,
        an_endpoint(server, tmp_path) as endpoint,
    ):
        for name in own | foreign:
            server.add(name.decode(), b"Subject: x\r\n\r\n")
        source = await a_source(endpoint)
        await source.head()
        known = await source.session.mirror.ask(Mirror.folders)
        assert {row.wire for row in known if row.selectable} == own | {b"INBOX"}


async def test_own_folders_with_another_separator_are_refused_in_words(tmp_path: Path) -> None:
    quirk = Quirk(answer=lambda command, data: data.replace(b'(("" "/"))', b'(("" "/")("Old." "."))'))
    async with open_fake(FakeImap(quirk=quirk)) as server, an_endpoint(server, tmp_path) as endpoint:
        server.folders["Old"] = Folder(7)  # the root of it, which says nothing that could be misread
        await (await a_source(endpoint)).head()
        server.add("Old.2020", b"Subject: x\r\n\r\n")
        with pytest.raises(RequestRefused, match=r"'Old.2020' is in a namespace with another separator"):
            await (await a_source(endpoint)).head()


@pytest.mark.parametrize("lists", ["as made", "as asked"])
async def test_names_that_a_server_without_small_letters_takes_for_one_stay_two_folders(
    lists: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _Session._name

    def folded(session: _Session, rest: bytes, literals: list[bytes]) -> str:
        asked = name(session, rest, literals)
        return next((one for one in session.server.folders if one.lower() == asked.lower()), asked)

    def answer(command: bytes, data: bytes) -> bytes:
        if command.startswith(b'LIST "" "') and b"*" not in command and lists == "as asked":
            return b'* LIST () "/" ' + command[8:] + b"\r\n" + data.splitlines(keepends=True)[-1]
        return data

    monkeypatch.setattr(_Session, "_name", folded)
    steps = folders() + [
        FolderStep(StepKind.CREATE, FolderState(FolderId(new_id()), None, one, modseq=3, uidvalidity=3, uidnext=1))
        for one in ("Work", "work", "Inbox")
    ]
    server = FakeImap(RICH, quirk=Quirk(answer=answer))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(steps, 1)
        assert sorted(f.name for f in await target.read_hierarchy()) == ["INBOX", "Inbox", "Sent", "Work", "work"]
        assert len(server.folders) == len(steps)


SERVERS_NAMES = {
    "NFC": ("Cafe\u0301", lambda name: unicodedata.normalize("NFC", name)),
    "no spaces at the end": ("Work ", str.strip),
    "no bang": ("yahoo!", lambda name: name.replace("!", "_")),
}


@pytest.mark.parametrize(("asked", "kept"), SERVERS_NAMES.values(), ids=SERVERS_NAMES.keys())
async def test_a_folder_that_the_server_made_and_calls_otherwise_is_found_again(
    asked: str, kept: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No look found it, so it was made each time, and its mail written into it once more."""
    name, rename = _Session._name, _Session._rename

    def renamed(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        verb, before, _, after, _ = rest.split(b'"')
        names = [b'"' + kept(from_utf7(one)).encode() + b'"' for one in (before, after)]
        return rename(session, verb + b" ".join(names), literals)

    monkeypatch.setattr(_Session, "_name", lambda *args: kept(name(*args)))
    monkeypatch.setattr(_Session, "_rename", renamed)
    steps = folders()
    steps[1] = FolderStep(StepKind.CREATE, attrs.evolve(steps[1].folder, name=asked))
    written = items(4)
    async with open_fake(FakeImap(is_unicode=True)) as server, an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        for _ in range(2):
            await target.apply_folders(steps, 1)
            assert await target.write_items(written, 1) == ()
            account = await target.account()
            assert sorted(folder.name for folder in account.folders) == sorted(["INBOX", asked])
            assert sum(digest.items for _, digest in account.digests) == len(written)
        assert sum(len(contents) for contents in server.contents().values()) == len(written)
        (told,) = await target.remarks()
        assert told.startswith(f"the server does not take the folder name {asked!r}; there it is called ")
        again = attrs.evolve(steps[1].folder, name=f"Old {asked}", modseq=9)
        for token in (1, 2):
            await target.apply_folders([FolderStep(StepKind.MOVE, again)], token)
            account = await target.account()
            assert sorted(folder.name for folder in account.folders) == sorted(["INBOX", again.name])
            assert sum(digest.items for _, digest in account.digests) == len(written)
        assert len(server.folders) == (3 if asked == "yahoo!" else 2)  # an empty one, of the server's own choice


@pytest.mark.parametrize("name", [b"", b"Work/"])
async def test_a_place_of_folders_that_is_listed_without_a_name_of_its_own_is_no_folder(
    name: bytes, tmp_path: Path
) -> None:
    def answer(command: bytes, data: bytes) -> bytes:
        return b'* LIST (\\Noselect) "/" "' + name + b'"\r\n' + data if command.startswith(b"LIST") else data

    async with open_fake(FakeImap(quirk=Quirk(answer=answer))) as server, an_endpoint(server, tmp_path) as endpoint:
        server.add("Work/in", b"Subject: x\r\n\r\n")
        hierarchy = await (await a_source(endpoint)).read_hierarchy()
        assert sorted(folder.name for folder in hierarchy) == ["INBOX", "Work", "in"]


@pytest.mark.parametrize("namespace", [b'(("" NIL)) NIL NIL', b'(("INBOX/" "/")) NIL NIL'], ids=["no levels", "prefix"])
async def test_a_tree_that_the_server_cannot_say_is_the_same_when_the_mailbox_is_opened(
    namespace: bytes, tmp_path: Path
) -> None:
    def answer(command: bytes, data: bytes) -> bytes:
        data = data.replace(b'(("" "/")) NIL NIL', namespace)
        return data.replace(b'"/"', b"NIL") if b" NIL))" in namespace else data

    steps = folders() + [
        FolderStep(StepKind.CREATE, FolderState(FolderId(new_id()), parent, "2020", modseq=3, uidvalidity=3, uidnext=1))
        for parent in (SENT_ID, INBOX_ID, None)
    ]
    server = FakeImap(RICH, quirk=Quirk(answer=answer))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        await target.apply_folders(steps, 1)
        before = await target.read_hierarchy()
        await target.open(1)
        after = await endpoint.source(InstanceId(b"t" * 16)).read_hierarchy()
        assert {f.folder_id: (f.parent_id, f.name) for f in after} == {
            f.folder_id: (f.parent_id, f.name) for f in before
        }


@pytest.mark.parametrize("folder", ["Sent", "Sent, removed at the source", "Archive"])
async def test_a_move_that_is_given_up_leaves_the_folders_that_were_there(folder: str, tmp_path: Path) -> None:
    server = FakeImap(RICH, folders={"INBOX": Folder(1), "Sent": Folder(7)})
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        steps = [attrs.evolve(step, folder=attrs.evolve(step.folder, subscribed=False)) for step in folders()]
        await target.apply_folders(steps, 1)
        await target.write_items(items(4), 1)
        if folder == "Sent, removed at the source":
            gone = tuple(Gone(item.state.item_id, 9) for item in items(4))
            through = Watermark(b"x" * 16, InstanceId(b"y" * 16), 9)
            await target.apply_changes(ChangeBatch(through=through, more=False, items_gone=gone), 1)
            await target.apply_folders([attrs.evolve(steps[1], kind=StepKind.REMOVE)], 1)
        elif folder == "Archive":
            renamed = attrs.evolve(steps[1].folder, name="Archive", modseq=9)
            await target.apply_folders([FolderStep(StepKind.MOVE, renamed)], 1)
        server.quirk.commands.clear()
        await target.remove(1, keep_until_ms=0)
        await target.purge(1)
        subscribed = [command for command in server.quirk.commands if b"SUBSCRIBE" in command]
    assert (server.contents(), sorted(server.folders)) == ({}, sorted(["INBOX", folder.split(",")[0]]))
    assert sorted(subscribed) == sorted(b'SUBSCRIBE "%s"' % name.encode() for name in server.folders)


@pytest.mark.parametrize("names", [("R&-D", "R&D"), ("a", "&AGE-"), ("&AOQ-", "\u00e4")])
async def test_two_names_that_say_the_same_are_two_folders(names: tuple[str, str], tmp_path: Path) -> None:
    async with open_fake(FakeImap(RICH)) as server, an_endpoint(server, tmp_path) as endpoint:
        for name in names:
            server.add(name, b"Subject: x\r\n\r\n")
        source = await a_source(endpoint)
        after = await source.head()
        found = {folder.name: folder.folder_id for folder in await source.read_hierarchy()}
        said = from_utf7(names[0].encode())
        assert found.keys() == {"INBOX", said} | {f"{said}_{one.hex()[:8]}" for one in found.values()} & found.keys()
        assert len(found) == 3
        del server.folders[names[0]]
        await source.head()
        (gone,) = (await source.read_feed(after, changes_max=100)).items_gone
        assert gone
        assert {folder.name for folder in await source.read_hierarchy()} == found.keys() - {said}


# ---- the connection ends, anywhere


@pytest.mark.slow
@pytest.mark.parametrize("capabilities", [RICH, KINDS["no UIDPLUS"]], ids=["rich", "no UIDPLUS"])
async def test_a_connection_that_ends_at_any_byte_of_the_answers_loses_and_doubles_nothing(
    capabilities: str, tmp_path: Path
) -> None:
    written = items(5)
    server = FakeImap(capabilities)
    async with open_fake(server), an_endpoint(server, tmp_path / "whole") as endpoint:
        await write_all(endpoint.target(InstanceId(b"t" * 16)), 1, written)
    length = server.quirk.sent
    assert length > 1000
    for cut in range(1, length, STRIDE):
        server = FakeImap(capabilities, quirk=Quirk(cut_after=cut))
        async with open_fake(server), an_endpoint(server, tmp_path / str(cut)) as endpoint:
            target = endpoint.target(InstanceId(b"t" * 16))
            tries = 0
            while not await succeeds(partial(write_all, target, tries + 1, written)):
                tries += 1
                assert tries < 3
            assert server.contents() == expected(written), f"cut after {cut} bytes"


@pytest.mark.slow
async def test_a_source_whose_connection_ends_at_any_byte_is_read_whole_by_the_next_try(tmp_path: Path) -> None:
    async def read_all(source: MirroredMailbox) -> list[bytes]:
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        return sorted(item.content for item in page.items)

    def filled(quirk: Quirk) -> FakeImap:
        server = FakeImap(RICH, quirk=quirk)
        for number in range(4):
            server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
        return server

    server = filled(Quirk())
    async with open_fake(server), an_endpoint(server, tmp_path / "whole") as endpoint:
        assert len(await read_all(await a_source(endpoint))) == 4
    for cut in range(1, server.quirk.sent, STRIDE):
        server = filled(Quirk())
        async with open_fake(server), an_endpoint(server, tmp_path / str(cut)) as endpoint:
            source = await a_source(endpoint)
            server.quirk.cut_after = server.quirk.sent + cut
            read: list[bytes] = []

            async def read_once(source: MirroredMailbox = source, read: list[bytes] = read) -> None:
                read[:] = await read_all(source)

            assert await succeeds(read_once) or await succeeds(read_once)
            assert read == server.contents()["INBOX"], f"cut after {cut} bytes"


def cut_before_the_answer_to_an_append(server: FakeImap) -> None:
    def answer(command: bytes, data: bytes) -> bytes:
        if command.startswith(b"APPEND"):
            server.quirk.answer = None
            raise Cut
        return data

    server.quirk.answer = answer


async def test_an_append_whose_answer_nobody_heard_is_not_made_twice(tmp_path: Path) -> None:
    """The process dies with messages at the server and no answer; the next one finds its intent, and them."""
    written = items(3)
    server = FakeImap(RICH)
    async with open_fake(server):
        async with an_endpoint(server, tmp_path) as endpoint:
            target = endpoint.target(InstanceId(b"t" * 16))
            await target.create(MailboxId(b"m" * 16), 1)
            await target.apply_folders(folders(), 1)
            cut_before_the_answer_to_an_append(server)
            with pytest.raises(ExceptionGroup):
                await target.write_items(written, 1)
        assert any(server.contents().values()), "some came"
        async with an_endpoint(server, tmp_path) as endpoint:
            target = endpoint.target(InstanceId(b"t" * 16))
            await target.claim(2)
            assert await target.write_items(written, 2) == ()
            await target.account()
        assert server.contents() == expected(written)


async def test_a_late_append_that_was_given_up_is_known_again_and_taken_away(tmp_path: Path) -> None:
    """The answer is lost and the messages are not there when they are looked for; then they come after all."""
    written = items(3)
    server = FakeImap(RICH)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        cut_before_the_answer_to_an_append(server)
        with pytest.raises(ExceptionGroup):
            await target.write_items(written, 1)
        late = {name: list(folder.mail) for name, folder in server.folders.items()}
        for folder in server.folders.values():
            folder.mail.clear()
        await target.claim(2)
        assert await target.write_items(written, 2) == ()
        for name, mails in late.items():
            for mail in mails:
                server.add(name, mail.content, flags=" ".join(mail.flags), date=mail.date)
        await target.account()
        assert server.contents() == expected(written)


async def test_what_two_writes_at_once_find_in_doubt_is_settled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash. What the second one finds out comes when the first has written others in their place."""
    written = items(6)
    find, append_all, searches = writing._find_at_server, ImapSession.append_all, 0

    async def find_late(session: Any, *about: Any) -> Any:
        nonlocal searches
        searches += 1
        is_late = searches > 1
        found = await find(session, *about)
        if is_late:
            await trio.sleep(0.1)
        return found

    async def append_later(self: ImapSession, *about: Any) -> Any:
        await trio.sleep(0.2)
        return await append_all(self, *about)

    server = FakeImap(RICH)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        cut_before_the_answer_to_an_append(server)
        with pytest.raises(ExceptionGroup):
            await target.write_items([item for item in written if item.state.folder_id == INBOX_ID], 1)
        for folder in server.folders.values():
            folder.mail.clear()
        monkeypatch.setattr(writing, "_find_at_server", find_late)
        monkeypatch.setattr(ImapSession, "append_all", append_later)
        async with trio.open_nursery() as nursery:
            for half in (written[:3], written[3:]):
                nursery.start_soon(target.write_items, half, 1)
        account = await target.account()
        assert sum(digest.items for _, digest in account.digests) == len(written)
        assert server.contents() == expected(written)


@pytest.mark.parametrize(
    "told",
    [b"* OK [COPYUID %d %d %d] moved\r\n", b"* OK [COPYUID 7] moved\r\n", b""],
    ids=["told", "told in riddles", "silent"],
)
async def test_a_message_that_is_moved_is_there_once_whatever_the_server_tells(
    told: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of them the server loses on the way: the next listing brings it again."""
    is_lost = iter([False, True, False, False])

    def move(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        assert session._selected is not None
        here = session.server.folders[session._selected]
        there = session.server.folders[rest.split(b'"')[1].decode()]
        (mail,) = [mail for mail in here.mail if _is_in(mail.uid, rest.split(b" ")[2])]
        here.mail.remove(mail)
        said = told % (there.validity, mail.uid, there.uidnext) if b"%" in told else told
        mail.uid, mail.modseq = there.uidnext, session.server.tick()
        there.uidnext += 1
        if next(is_lost):
            return b"", b"OK nothing was moved"
        there.mail.append(mail)
        return said, b"OK done"

    monkeypatch.setattr(_Session, "_uid_move", move, raising=False)
    written = items(6)
    server = FakeImap(RICH)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await write_all(target, 1, written)
        moved = [
            item._replace(state=item.state._replace(folder_id=SENT_ID, uid=100 + n, modseq=50 + n))
            for n, item in enumerate(written)
            if item.state.folder_id == INBOX_ID
        ]
        for item in moved:
            through = Watermark(b"x" * 16, InstanceId(b"y" * 16), item.state.modseq)
            assert await target.apply_changes(ChangeBatch(through=through, more=True, items=(item.state,)), 1) == ()
        assert sum(digest.items for _, digest in (await target.account()).digests) == len(written) - 1
        assert await target.write_items(moved, 1) == ()
        assert sum(digest.items for _, digest in (await target.account()).digests) == len(written)
        assert server.contents() == {"Sent": sorted(item.content for item in written)}


@pytest.mark.parametrize("capabilities", [RICH, PLAIN], ids=["rich", "plain"])
async def test_no_command_is_longer_than_a_server_must_take(
    capabilities: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "uid_sets", partial(uid_sets, bytes_max=25))
    written = items(60)
    server = FakeImap(capabilities)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await write_all(target, 1, written)
        odd = [item for item in written if item.state.uid % 2]
        changed = tuple(item.state._replace(modseq=100, flags=0) for item in odd)
        gone = tuple(Gone(item.state.item_id, 100) for item in written if item not in odd)
        through = Watermark(b"x" * 16, InstanceId(b"y" * 16), 100)
        server.quirk.commands.clear()
        await target.apply_changes(ChangeBatch(through=through, more=False, items=changed, items_gone=gone), 1)
        assert max(len(command) for command in server.quirk.commands) < 80
        assert server.contents() == expected(odd)
        assert {flag for folder in server.folders.values() for mail in folder.mail for flag in mail.flags} == {"work"}


@pytest.mark.parametrize("others", [0, 1])
async def test_a_server_that_alters_messages_and_says_no_uids_gets_them_once(
    others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = _Session._append

    def altering(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        for number in range(others):
            session.server.add("INBOX", b"Subject: not ours %d\r\n\r\n" % number, date="14-Nov-2023 22:13:20 +0000")
        return append(session, rest, [b"X-Received: by us\r\n" + one for one in literals])

    monkeypatch.setattr(_Session, "_append", altering)
    written = items(9)
    server = FakeImap(KINDS["no UIDPLUS"])
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        if others:
            with pytest.raises(RequestRefused, match="cannot be told apart"):
                await write_all(endpoint.target(InstanceId(b"t" * 16)), 1, written)
            return
        await write_all(endpoint.target(InstanceId(b"t" * 16)), 1, written)
        sent = expected(written)
        assert server.contents() == {name: [b"X-Received: by us\r\n" + one for one in sent[name]] for name in sent}


async def test_two_batches_at_a_time_leave_each_others_intents_alone(tmp_path: Path) -> None:
    """While one batch is on its way the next asks what is in doubt: not that one."""
    written = items(40)
    async with open_fake(FakeImap(RICH)) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        # In the nursery: ten batches, each written as soon as it may.
        async with trio.open_nursery() as nursery:
            for at in range(0, 40, 4):
                nursery.start_soon(target.write_items, written[at : at + 4], 1)
        assert server.contents() == expected(written)
        account = await target.account()
        assert sum(digest.items for _, digest in account.digests) == 40


# ---- what it says


def replaced(pattern: bytes, by: bytes) -> Callable[[bytes, bytes], bytes]:
    return lambda command, data: re.sub(pattern, by, data)


ODD_BUT_RIGHT = {
    "untagged surprises": replaced(rb"(?m)^\* OK \[UIDNEXT", b"* 7 RECENT\r\n* OK \r\n* FLAGS ()\r\n* OK [UIDNEXT"),
    "no text after OK": replaced(rb"OK done", b"OK"),
    "trailing spaces": replaced(rb"\)\r\n(?=\*|M)", b") \r\n"),
    "FLAGS unasked in a FETCH": lambda c, d: (
        d.replace(b"* 1 FETCH (UID", b"* 1 FETCH (FLAGS (\\Seen))\r\n* 1 FETCH (UID")
        if c.startswith(b"UID FETCH")
        else d
    ),
    "names as literals": lambda c, d: re.sub(rb'"/" "([^"]*)"', lambda m: b'"/" {%d}\r\n%s' % (len(m[1]), m[1]), d),
    "wrong RFC822.SIZE": replaced(rb"RFC822.SIZE (\d+)", rb"RFC822.SIZE 9\1"),
    "lower case": lambda c, d: d if b"BODY[]" in d else d.replace(b" FETCH ", b" Fetch ").replace(b"* LIST", b"* list"),
    "expunges in the middle": replaced(rb"(?m)^\* LIST", b"* 99 EXPUNGE\r\n* LIST"),
    "VANISHED of none": lambda c, d: b"* VANISHED (EARLIER) \r\n" + d if c.startswith(b"UID FETCH") else d,
    "HIGHESTMODSEQ at the end of a FETCH": lambda c, d: (  # Dovecot 2.3, where a message was expunged meanwhile
        re.sub(rb"(M\d+) OK done", rb"\1 OK [HIGHESTMODSEQ 10] Fetch completed (0.085 + 0.000 secs).", d)
        if c.startswith(b"UID FETCH")
        else d
    ),
    "a line end without CR": lambda c, d: d if b"{" in d else d.replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("answer", ODD_BUT_RIGHT.values(), ids=ODD_BUT_RIGHT.keys())
async def test_odd_answers_are_understood(answer: Callable[[bytes, bytes], bytes], tmp_path: Path) -> None:
    server = FakeImap(RICH, quirk=Quirk(answer=answer))
    for number in range(3):
        server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        assert sorted(item.content for item in page.items) == server.contents()["INBOX"]
        assert all(item.state.size == len(item.content) for item in page.items)
        assert [f.name for f in await source.read_hierarchy()] == ["INBOX"]


WRONG = {
    "BYE": (lambda c, d: b"* BYE no more\r\n" if c.startswith(b"LIST") else d, EndpointUnavailable, "no more"),
    "busy": (
        lambda c, d: re.sub(rb"(M\d+) OK.*", rb"\1 NO [UNAVAILABLE] later", d) if c.startswith(b"LIST") else d,
        EndpointBusy,
        "busy",
    ),
    "an answer nobody asked": (lambda c, d: d.replace(b"M", b"X") if c.startswith(b"LIST") else d, MoveError, "X"),
    "no IMAP at all": (lambda c, d: b"HTTP/1.1 400 Bad Request\r\n\r\n", EndpointUnavailable, "greeting"),
    "brackets that do not match": (
        lambda c, d: d.replace(b"(\\Subscribed)", b"((\\Subscribed)") if c.startswith(b"LIST") else d,
        EndpointUnavailable,
        "not closed",
    ),
    "silence": (lambda c, d: b"" if c.startswith(b"LIST") else d, EndpointUnavailable, "did not answer"),
    "UIDVALIDITY 0": (lambda c, d: re.sub(rb"UIDVALIDITY \d+", b"UIDVALIDITY 0", d), MoveError, "UIDVALIDITY"),
    "a refused login": (
        lambda c, d: (
            re.sub(rb"(M\d+) OK.*", rb"\1 NO [AUTHENTICATIONFAILED] not you", d) if c.startswith(b"AUTHENTICATE") else d
        ),
        MoveError,
        "not you",
    ),
}


@pytest.mark.parametrize(("answer", "kind", "word"), WRONG.values(), ids=WRONG.keys())
async def test_wrong_answers_are_an_error_in_words(
    answer: Callable[[bytes, bytes], bytes], kind: type[MoveError], word: str, tmp_path: Path
) -> None:
    server = FakeImap(RICH, quirk=Quirk(answer=answer))
    server.add("INBOX", b"Subject: x\r\n\r\n")
    with trio.fail_after(20):
        async with open_fake(server), an_endpoint(server, tmp_path, answer_s=0.3) as endpoint:
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - what it is stands below
                await (await a_source(endpoint)).head()
            error = only(caught.value)
            assert isinstance(error, kind)
            assert word in str(error)
            assert "of the fake" not in str(error)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (b"[INUSE] try again", EndpointBusy),
        (b"[SERVERBUG] Internal error", EndpointBusy),
        (b"that did not work", RequestRefused),
    ],
)
@pytest.mark.parametrize("refused", [b"STATUS", b"EXAMINE", b"EXAMINE to read"])
async def test_a_folder_that_cannot_be_opened_is_an_error_and_not_an_empty_one(
    refused: bytes, words: bytes, kind: type[MoveError], tmp_path: Path
) -> None:
    is_refusing = False

    def answer(command: bytes, data: bytes) -> bytes:
        if is_refusing and command.startswith(b"LIST"):  # whose status it need not say (RFC 5819, section 2)
            data = re.sub(rb'\* STATUS "Sent"[^\r]*\r\n', b"", data) if refused == b"STATUS" else data
        if is_refusing and command.startswith(refused.split()[0] + b' "Sent"'):
            return re.sub(rb"(?s).*(M\d+) OK.*", rb"\1 NO " + words + b"\r\n", data)
        return data

    async with open_fake(FakeImap(quirk=Quirk(answer=answer))) as server, an_endpoint(server, tmp_path) as endpoint:
        for number in range(3):
            server.add("Sent", b"Subject: %d\r\n\r\n" % number)
        source = await a_source(endpoint)
        after = await source.head()
        if refused != b"EXAMINE to read":
            server.add("Sent", b"Subject: 3\r\n\r\n")
        is_refusing = True
        with pytest.raises(kind, match="open the folder 'Sent'"):
            await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        is_refusing = False
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        assert sorted(item.content for item in page.items) == server.contents()["Sent"]
        assert not page.bad
        assert not (await source.read_feed(after, changes_max=100)).items_gone


@pytest.mark.parametrize("words", [b"[NONEXISTENT] no such folder", b"Mailbox doesn't exist: Sent"])
async def test_a_folder_that_went_after_it_was_listed_is_gone(words: bytes, tmp_path: Path) -> None:
    """Dovecot 2.3 has no code for it."""

    def answer(command: bytes, data: bytes) -> bytes:
        if command.startswith(b"LIST"):
            server.folders.pop("Sent", None)
        return data.replace(b"[NONEXISTENT] no such folder", words)

    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        server.add("Sent", b"Subject: x\r\n\r\n")
        source = await a_source(endpoint)
        after = await source.head()
        server.add("Sent", b"Subject: y\r\n\r\n")
        server.quirk.answer = answer
        await source.head()
        batch = await source.read_feed(after, changes_max=100)
        assert len(batch.items_gone) == 1
        assert batch.hierarchy is not None
        assert [folder.name for folder in batch.hierarchy] == ["INBOX"]


@pytest.mark.parametrize("refused", [b"STATUS", b"EXAMINE"])
async def test_a_folder_that_is_listed_and_said_not_to_be_there_is_not_taken_for_deleted(
    refused: bytes, tmp_path: Path
) -> None:
    is_damaged = False

    def answer(command: bytes, data: bytes) -> bytes:
        if is_damaged and command.startswith(b"LIST"):
            data = re.sub(rb'\* STATUS "Sent"[^\r]*\r\n', b"", data) if refused == b"STATUS" else data
        if is_damaged and command.startswith(refused + b' "Sent"'):
            return re.sub(rb"(?s).*(M\d+) OK.*", rb"\1 NO [NONEXISTENT] no such folder\r\n", data)
        return data

    async with open_fake(FakeImap(quirk=Quirk(answer=answer))) as server, an_endpoint(server, tmp_path) as endpoint:
        server.add("Sent", b"Subject: x\r\n\r\n")
        source = await a_source(endpoint)
        after = await source.head()
        server.add("Sent", b"Subject: y\r\n\r\n")
        is_damaged = True
        with pytest.raises(EndpointBusy, match="open the folder 'Sent', which it lists and says not to have") as raised:
            await source.head()
        assert raised.value.part
        is_damaged = False
        batch = await source.read_feed(after, changes_max=100)
        assert (len(batch.items), len(batch.items_gone)) == (1, 0)


@pytest.mark.parametrize("step", [StepKind.CREATE, StepKind.MOVE, StepKind.REMOVE])
async def test_a_server_that_is_busy_gets_no_folder_of_another_name(
    step: StepKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was called `Later_6c6c6c6c` for good, or counted as removed and was left there."""
    is_busy = False

    def busily(name: str) -> None:
        act = getattr(_Session, name)

        def now(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
            if is_busy and rest.split()[1].strip(b'"') in (b"Later", b"Sent"):
                return b"", b"NO [INUSE] try again"
            acted: tuple[bytes, bytes] = act(session, rest, literals)
            return acted

        monkeypatch.setattr(_Session, name, now)

    for name in ("_create", "_rename", "_status", "_delete"):
        busily(name)
    later = FolderState(FolderId(b"l" * 16), None, "Later", modseq=3, uidvalidity=3, uidnext=1)
    if step is not StepKind.CREATE:
        later = attrs.evolve(folders()[1].folder, name="Later", modseq=3)
    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        is_busy = True
        with pytest.raises(EndpointBusy, match="try again"):
            await target.apply_folders([FolderStep(step, later)], 1)
        is_busy = False
        await target.apply_folders([FolderStep(step, later)], 1)
        there = {
            StepKind.CREATE: {"INBOX", "Sent", "Later"},
            StepKind.MOVE: {"INBOX", "Later"},
            StepKind.REMOVE: {"INBOX"},
        }
        assert server.folders.keys() == there[step]
        assert not await target.remarks()


@pytest.mark.parametrize(
    ("words", "is_passing"),
    [
        (b"NO [INUSE] try again", True),
        (b"NO [UNAVAILABLE] try again", True),
        (b"NO [SERVERBUG] try again", True),
        (b"NO [THROTTLED] try again", True),
        (b"NO [USEATTR] not here", False),
        (b"NO [CANNOT] not here", False),
        (b"NO [LIMIT] one is enough", False),
        (b"NO not here", False),
        (b"BAD what?", False),
    ],
)
async def test_a_special_use_is_left_out_where_it_is_not_wanted_and_not_where_the_server_is_busy(
    words: bytes, is_passing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, is_refusing, made = _Session._create, True, []

    def refusing(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        if b"USE" in rest and is_refusing:
            return b"", words
        made.append(rest)
        return create(session, rest, literals)

    monkeypatch.setattr(_Session, "_create", refusing)
    steps = [attrs.evolve(step, folder=attrs.evolve(step.folder, special_use="\\Sent")) for step in folders()[1:]]
    async with open_fake(FakeImap(f"{RICH} CREATE-SPECIAL-USE")) as server, an_endpoint(server, tmp_path) as endpoint:
        target = endpoint.target(InstanceId(b"t" * 16))
        await target.create(MailboxId(b"m" * 16), 1)
        if is_passing:
            with pytest.raises(EndpointBusy, match="try again"):
                await target.apply_folders(steps, 1)
            is_refusing = False
        await target.apply_folders(steps, 1)
        assert made == [b'CREATE "Sent"' + b" (USE (\\Sent))" * is_passing]
        assert server.folders.keys() == {"INBOX", "Sent"}


async def three_messages(answer: Callable[[bytes, bytes], bytes], tmp_path: Path) -> SeedPage:
    """As a server tells of them that says `answer` for its answers."""
    server = FakeImap(RICH, quirk=Quirk(answer=answer))
    for number in range(3):
        server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        return await (await a_source(endpoint)).read_seed(None, bytes_max=1 << 20, items_max=100)


async def test_a_message_that_is_told_of_in_two_responses_is_one_message(tmp_path: Path) -> None:
    """RFC 3501 lets a server say what was asked for in as many FETCH responses as it likes."""

    def answer(command: bytes, data: bytes) -> bytes:
        told = rb"\* 2 FETCH \(UID 2 (FLAGS \([^)]*\)) (INTERNALDATE .*)\)\r\n"
        return re.sub(told, rb"* 2 FETCH (UID 2 \1)\r\n* 2 FETCH (UID 2 \2)\r\n", data)

    page = await three_messages(answer, tmp_path)
    assert len(page.items) == 3


async def test_a_message_that_is_listed_and_has_no_bytes_is_a_bad_item(tmp_path: Path) -> None:
    def answer(command: bytes, data: bytes) -> bytes:
        if b"BODY.PEEK" not in command:
            return data
        return re.sub(rb"\* 2 FETCH \(UID 2 BODY\[\] \{\d+\}\r\n.*?\r\n\r\n\)\r\n", b"", data, flags=re.DOTALL)

    page = await three_messages(answer, tmp_path)
    assert [item.content for item in page.items] == [b"Subject: 0\r\n\r\n", b"Subject: 2\r\n\r\n"]
    assert [(bad.kind, bad.why) for bad in page.bad] == [("CorruptItem", "the server lists it and gives no bytes")]


async def test_a_message_that_is_listed_with_bytes_and_comes_without_any_is_a_bad_item(tmp_path: Path) -> None:
    def answer(command: bytes, data: bytes) -> bytes:
        return re.sub(rb"(?s)(UID 2 BODY\[\]) \{\d+\}\r\n.*?\r\n\r\n\)", rb'\1 "")', data)

    page = await three_messages(answer, tmp_path)
    assert [item.content for item in page.items] == [b"Subject: 0\r\n\r\n", b"Subject: 2\r\n\r\n"]
    assert [bad.why for bad in page.bad] == ["it is listed with 14 bytes, and none were given"]


async def test_a_server_that_lists_no_folders_any_more_has_not_deleted_them_all(tmp_path: Path) -> None:
    """Its disk is not there, say. INBOX is always there (RFC 3501, section 5.1)."""
    is_away = False

    def answer(command: bytes, data: bytes) -> bytes:
        return data.splitlines(keepends=True)[-1] if is_away and command.startswith(b"LIST") else data

    async with open_fake(FakeImap(quirk=Quirk(answer=answer))) as server, an_endpoint(server, tmp_path) as endpoint:
        server.add("Sent", b"Subject: x\r\n\r\n")
        source = await a_source(endpoint)
        after = await source.head()
        is_away = True
        with pytest.raises(EndpointBusy, match="lists no folders, not even INBOX"):
            await source.head()
        is_away = False
        assert await source.head() == after


@pytest.mark.parametrize("keeps", [False, True], ids=["all or nothing", "keeps those before"])
async def test_a_refused_message_is_a_bad_item_and_the_others_of_its_batch_arrive(keeps: bool, tmp_path: Path) -> None:
    written = items(7)
    server = FakeImap(
        RICH,
        refuse_append=lambda content: "[TOOBIG] not this one" if b"Subject: 2" in content else None,
        keeps_before_refused=keeps,
    )
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        bad = await target.write_items(written, 1)
        assert [(one.kind, "not this one" in one.why) for one in bad] == [("LargeItem", True)] * 2
        fine = [item for item in written if b"Subject: 2" not in item.content]
        assert server.contents() == expected(fine)


@pytest.mark.parametrize(
    "words",
    [
        "[THROTTLED] slow down",
        "[SERVERBUG] Internal error occurred",
        "[INUSE] locked",
        "[LIMIT] too many messages",
        "Quota exceeded (mailbox for user is full)",
    ],
)
async def test_a_server_that_is_in_trouble_makes_no_bad_items(words: str, tmp_path: Path) -> None:
    server = FakeImap(RICH, refuse_append=lambda content: words)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        with pytest.raises(ExceptionGroup) as raised:
            await (await a_target(endpoint)).write_items(items(6), 1)
        error = only(raised.value)
        assert isinstance(error, RequestRefused if "Quota" in words else EndpointBusy)
        assert "take a message into the folder '" in str(error)
        if isinstance(error, EndpointBusy):  # a server that slows us down is waited for longer than a folder
            assert bool(error.part) == any(code in words for code in ("SERVERBUG", "INUSE"))


async def test_messages_beyond_a_limit_that_others_are_within_are_large_items(tmp_path: Path) -> None:
    server = FakeImap(RICH, refuse_append=lambda content: "[LIMIT] no" if b": 2" in content else None)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        bad = await (await a_target(endpoint)).write_items(items(7), 1)
        assert [one.kind for one in bad] == ["LargeItem"] * 2


async def test_a_message_that_is_too_large_ends_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNASKED_BYTES_MAX", 50)
    content = b"Subject: large\r\n\r\n" + 1000 * b"x"
    small, large = items(2)
    state = large.state._replace(size=len(content), content_hash=xxhash.xxh3_128_digest(content))
    server = FakeImap(RICH, literal_bytes_max=100)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        (bad,) = await (await a_target(endpoint)).write_items([small, ItemContent(state, content)], 1)
        assert (bad.state.item_id, bad.kind) == (state.item_id, "LargeItem")
        assert server.contents() == {"Sent": [small.content]}


def takes_no_other_keywords(command: bytes, data: bytes) -> bytes:
    return data.replace(b" \\*)]", b" kept)]")


@pytest.mark.parametrize("answer", [takes_no_other_keywords, None], ids=["says so", "says it takes any"])
@pytest.mark.parametrize("refuses", [True, False], ids=["refuses", "drops"])
async def test_a_keyword_that_the_server_does_not_take_costs_the_keyword_and_not_the_message(
    answer: Callable[[bytes, bytes], bytes] | None, refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = _Session._append

    def strict(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        if refuses and b"work" in rest:
            return b"", b"NO keyword not permitted"
        return append(session, rest.replace(b"work", b""), literals)

    monkeypatch.setattr(_Session, "_append", strict)
    written = [item._replace(state=item.state._replace(keywords=("Kept", "work"))) for item in items(4)]
    server = FakeImap(RICH, quirk=Quirk(answer=answer))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        account = await target.account()
        assert server.contents() == expected(written)
        assert sum(digest.items for _, digest in account.digests) == len(written)
        assert dict(account.digests) == wanted_of([item.state for item in written])
        assert (await target.account()).digests == account.digests
        (told,) = await target.remarks()
        assert told == f"the server does not keep a keyword ({8 if answer is None and refuses else 4} times)"


@pytest.mark.parametrize("code", [b"", b"[LIMIT] ", b"[CANNOT] "])
async def test_a_keyword_that_store_refuses_costs_the_keyword_and_not_the_move(
    code: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _Session._uid_store

    def strict(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return (b"", b"NO " + code + b"too many keywords") if b"late" in rest else store(session, rest, literals)

    monkeypatch.setattr(_Session, "_uid_store", strict)
    written = items(4)
    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        keywords = [("late",), ("fine",), ("late", "work"), ("work",)]
        states = tuple(
            item.state._replace(modseq=10 + at, flags=3, keywords=keywords[at]) for at, item in enumerate(written)
        )
        batch = ChangeBatch(through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 20), more=False, items=states)
        assert await target.apply_changes(batch, 1) == ()
        flags = [" ".join(sorted(mail.flags)) for folder in server.folders.values() for mail in folder.mail]
        assert sorted(flags) == sorted(
            ["\\Answered \\Seen", "\\Answered \\Seen fine", "\\Answered \\Seen", "\\Answered \\Seen work"]
        )
        account = await target.account()
        assert dict(account.digests) == wanted_of(states)
        assert await target.remarks() == ("the server does not keep a keyword (3 times)",)


def says_flags(permanent: bytes | None) -> Callable[[bytes, bytes], bytes]:
    """PERMANENTFLAGS of a folder that is selected; None: none is told. Of one that is only examined none is kept."""

    def answer(command: bytes, data: bytes) -> bytes:
        told = b"()" if command.startswith(b"EXAMINE") else permanent
        line = b"" if told is None else b"* OK [PERMANENTFLAGS " + told + b"] \r\n"
        return re.sub(rb"\* OK \[PERMANENTFLAGS [^\r]*\r\n", lambda _: line, data)

    return answer


@pytest.mark.parametrize("capabilities", [KINDS["rich"], KINDS["no CONDSTORE"]], ids=["rich", "no CONDSTORE"])
@pytest.mark.parametrize(
    ("permanent", "drops", "is_same", "remarks"),
    [
        (
            b"(\\Seen \\flagged \\Deleted \\*)",
            b"\\Draft \\Answered",
            True,
            (
                "the server did not keep the flag \\Answered of a message (3 times)",
                "the server did not keep the flag \\Draft of a message (4 times)",
            ),
        ),
        (b"(\\*)", b"\\Seen", True, ("the server did not keep the flag \\Seen of a message",)),
        (b"(\\Seen \\Draft \\*)", b"\\Draft", False, ()),
        (b"(\\Seen \\*)", b"", True, ()),
        (None, b"\\Draft", False, ()),
    ],
    ids=["says so", "none at all", "says it keeps it", "keeps it all the same", "says nothing"],
)
async def test_a_flag_counts_as_not_kept_where_the_server_says_so_and_shows_it(
    permanent: bytes | None,
    drops: bytes,
    is_same: bool,
    remarks: tuple[str, ...],
    capabilities: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dropping(name: str) -> None:
        act = getattr(_Session, name)

        def without(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
            for flag in drops.split():
                rest = rest.replace(flag, b"")
            acted: tuple[bytes, bytes] = act(session, rest, literals)
            return acted

        monkeypatch.setattr(_Session, name, without)

    for name in ("_append", "_uid_store"):
        dropping(name)
    flags = (int(Flag.FLAGGED), int(Flag.DRAFT), int(Flag.DRAFT | Flag.ANSWERED), int(Flag.DRAFT | Flag.FLAGGED))
    written = [item._replace(state=item.state._replace(flags=flags[at])) for at, item in enumerate(items(4))]
    server = FakeImap(capabilities, quirk=Quirk(answer=says_flags(permanent)))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        assert (dict((await target.account()).digests) == wanted_of([item.state for item in written])) is is_same
        # One answered since, two restated: the server is told their flags once more, and keeps what it keeps.
        now = (Flag.SEEN | Flag.ANSWERED | Flag.DRAFT, flags[1], flags[2], Flag.DRAFT | Flag.ANSWERED)
        states = tuple(
            item.state._replace(modseq=10 + at, flags=int(now[at]), keywords=("later",) if at == 2 else ("work",))
            for at, item in enumerate(written)
        )
        batch = ChangeBatch(through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 20), more=False, items=states)
        assert await target.apply_changes(batch, 1) == ()
        for _ in range(2):
            assert (dict((await target.account()).digests) == wanted_of(states)) is is_same
        assert await target.remarks() == remarks


@pytest.mark.parametrize("code", [b"[CANNOT] ", b""], ids=["CANNOT", "no code"])
@pytest.mark.parametrize("kind", ["rich", "no MULTIAPPEND", "no UIDPLUS", "no CONDSTORE"])
async def test_a_flag_that_the_server_refuses_costs_the_flag_and_not_the_message(
    kind: str, code: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By APPEND and by STORE; keywords that it takes are kept, and a message that it refuses is one all the same."""

    def refusing(name: str) -> None:
        act = getattr(_Session, name)

        def strict(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
            if b"\\Draft" in rest or b"\\Flagged" in rest or any(b"Subject: 3\r" in content for content in literals):
                return b"", b"NO " + code + b"not permitted"
            acted: tuple[bytes, bytes] = act(session, rest, literals)
            return acted

        monkeypatch.setattr(_Session, name, strict)

    for name in ("_append", "_uid_store"):
        refusing(name)
    flags = (0, int(Flag.SEEN), int(Flag.SEEN | Flag.DRAFT), int(Flag.FLAGGED | Flag.DRAFT))
    written = [item._replace(state=item.state._replace(flags=flags[at % 4])) for at, item in enumerate(items(40))]
    server = FakeImap(KINDS[kind], quirk=Quirk(answer=says_flags(b"(\\Answered \\Seen \\Deleted \\*)")))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        bad = await target.write_items(written, 1)
        assert [one.state for one in bad] == [item.state for item in written[6:8]]
        fine = written[:6] + written[8:]
        assert server.contents() == expected(fine)
        assert dict((await target.account()).digests) == wanted_of([item.state for item in fine])
        there = [mail.flags for folder in server.folders.values() for mail in folder.mail]
        assert sorted(map(sorted, there)) == sorted(
            sorted({"work", *(["\\Seen"] if item.state.flags & Flag.SEEN else [])}) for item in fine
        )
        assert await target.remarks() == (
            "the server did not keep the flag \\Draft of a message (18 times)",
            "the server did not keep the flag \\Flagged of a message (9 times)",
        )
        now = int(Flag.SEEN | Flag.FLAGGED | Flag.ANSWERED)
        states = tuple(
            item.state._replace(modseq=100 + at, flags=now, keywords=("later",)) for at, item in enumerate(fine)
        )
        batch = ChangeBatch(through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 200), more=False, items=states)
        assert await target.apply_changes(batch, 1) == ()
        assert dict((await target.account()).digests) == wanted_of(states)
        there = [mail.flags for folder in server.folders.values() for mail in folder.mail]
        assert there == [{"\\Answered", "\\Seen", "later"}] * len(fine)
        assert await target.remarks() == ("the server did not keep the flag \\Flagged of a message (38 times)",)


async def test_a_flag_that_the_server_refuses_is_learned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = _Session._append

    def strict(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        if b"\\Draft" in rest:
            return b"", b"NO [CANNOT] flag not permitted"
        return append(session, rest, literals)

    monkeypatch.setattr(_Session, "_append", strict)
    written = [
        item._replace(state=item.state._replace(flags=int(Flag.DRAFT), folder_id=INBOX_ID)) for item in items(512)
    ]
    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written[:256], 1) == ()
        server.quirk.commands.clear()
        assert await target.write_items(written[256:], 1) == ()
        assert len([command for command in server.quirk.commands if command.startswith(b"APPEND")]) <= 8
        assert await target.remarks() == ("the server did not keep the flag \\Draft of a message (512 times)",)


async def test_flags_are_sent_that_are_not_why_a_message_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server keeps flags that it does not name, as some do, and refuses a keyword."""
    append, store = _Session._append, _Session._uid_store
    taken = partial(re.search, rb"\(.*\bwork\b.*\)")

    def strict(act: Callable[..., tuple[bytes, bytes]]) -> Callable[..., tuple[bytes, bytes]]:
        return lambda session, rest, literals: (b"", b"NO [LIMIT] no") if taken(rest) else act(session, rest, literals)

    monkeypatch.setattr(_Session, "_append", strict(append))
    monkeypatch.setattr(_Session, "_uid_store", strict(store))
    written = [item._replace(state=item.state._replace(flags=int(Flag.DRAFT))) for item in items(4)]
    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        assert [mail.flags for folder in server.folders.values() for mail in folder.mail] == [{"\\Draft"}] * 4
        states = tuple(item.state._replace(modseq=10 + at, flags=17) for at, item in enumerate(written))
        batch = ChangeBatch(through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 20), more=False, items=states)
        assert await target.apply_changes(batch, 1) == ()
        assert dict((await target.account()).digests) == wanted_of(states)
        there = [mail.flags for folder in server.folders.values() for mail in folder.mail]
        assert there == [{"\\Draft", "\\Seen"}] * 4


async def test_a_flag_that_others_took_is_not_one_that_the_server_does_not_keep(tmp_path: Path) -> None:
    """Nor is one that they set: both are damage, also beside one that it does not keep."""
    server = FakeImap(quirk=Quirk(answer=says_flags(b"(\\Seen \\Answered \\*)")))
    written = [item._replace(state=item.state._replace(flags=int(Flag.SEEN | Flag.DRAFT))) for item in items(4)]
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        mail = [one for folder in server.folders.values() for one in folder.mail]
        for one, left in zip(mail, ({"\\Seen"}, set(), {"\\Seen", "\\Answered"}, {"\\Seen"}), strict=True):
            one.flags = {*left, "work"}
            one.modseq = server.tick()
        digests = dict((await target.account()).digests)
        assert digests != wanted_of([item.state for item in written])
        assert await target.remarks() == ("the server did not keep the flag \\Draft of a message (2 times)",)


def rebuilt(server: FakeImap, name: str) -> None:
    """The folder's messages have each other's UIDs, under another UIDVALIDITY."""
    folder = server.folders[name]
    folder.validity += 100
    folder.mail.reverse()
    for uid, mail in enumerate(folder.mail, 1):
        mail.uid, mail.modseq = uid, server.tick()


@pytest.mark.parametrize("capabilities", [RICH, PLAIN], ids=["rich", "plain"])
@pytest.mark.parametrize("seen", [False, True], ids=["", "seen before"])
async def test_what_was_deleted_goes_from_a_target_whose_folder_was_rebuilt(
    seen: bool, capabilities: str, tmp_path: Path
) -> None:
    """Of equal copies as many as were deleted. What others put there stays."""
    written = items(12)
    async with open_fake(FakeImap(capabilities)) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        server.add("INBOX", b"Subject: another's\r\n\r\n")
        rebuilt(server, "INBOX")
        if seen:
            await target.account()
        deleted = [item for at, item in enumerate(written) if at in (1, 2, 5, 9)]
        states = tuple(written[at].state._replace(modseq=90 + at, flags=3) for at in (4, 7))
        batch = ChangeBatch(
            through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 200),
            more=False,
            items=states,
            items_gone=tuple(Gone(item.state.item_id, 100 + at) for at, item in enumerate(deleted)),
        )
        assert await target.apply_changes(batch, 1) == ()
        left = [item for item in written if item not in deleted]
        for _ in range(2):
            wanted = {one.state.item_id: one.state for one in left} | {one.item_id: one for one in states}
            assert dict((await target.account()).digests) == wanted_of(list(wanted.values()))
        there = expected(left)
        there["INBOX"] = sorted([*there["INBOX"], b"Subject: another's\r\n\r\n"])
        assert server.contents() == there


@pytest.mark.parametrize("kind", ["rich", "no UIDPLUS", "plain"])
async def test_a_message_is_not_left_where_it_was_moved_from_when_that_folder_was_rebuilt(
    kind: str, tmp_path: Path
) -> None:
    written = items(6)
    async with open_fake(FakeImap(KINDS[kind])) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        rebuilt(server, "INBOX")
        states = tuple(
            item.state._replace(modseq=90 + at, folder_id=SENT_ID, uid=50 + at) for at, item in enumerate(written)
        )
        now = {state.item_id: ItemContent(state, item.content) for state, item in zip(states, written, strict=True)}
        batch = ChangeBatch(through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 200), more=False, items=states)
        missing = await target.apply_changes(batch, 1)
        assert await target.write_items([now[item_id] for item_id in missing], 1) == ()
        if dict((await target.account()).digests) != wanted_of(states):  # as verification sees: they are written anew
            assert await target.write_items(list(now.values()), 1) == ()
        for _ in range(2):
            assert dict((await target.account()).digests) == wanted_of(states)
        assert server.contents() == {"Sent": sorted(item.content for item in written)}


def wanted_of(states: Sequence[ItemState]) -> dict[FolderId, FolderDigest]:
    wanted = {folder_id: FolderDigest() for folder_id in (INBOX_ID, SENT_ID)}
    for state in states:
        wanted[state.folder_id] = wanted[state.folder_id].plus(state)
    return wanted


async def test_work_due_in_a_folder_that_went_at_the_target_does_not_keep_the_next_look_from_being_taken(
    tmp_path: Path,
) -> None:
    """Somebody deletes a folder at an old home, where the way back is kept open. The work came before the look."""
    written = items(4)
    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        del server.folders["Sent"]
        states = tuple(item.state._replace(modseq=10 + at, flags=3) for at, item in enumerate(written))
        batch = ChangeBatch(through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 20), more=False, items=states)
        await target.apply_changes(batch, 1)
        account = await target.account()
        assert [folder.name for folder in account.folders] == ["INBOX"]
        await target.apply_folders(folders(), 2)
        lost = [item for item in written if item.state.folder_id == SENT_ID]
        assert await target.write_items(lost, 2) == ()
        assert server.contents() == expected(written)


async def test_messages_that_cannot_be_moved_for_their_new_folder_went_do_not_keep_the_next_look_from_being_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(session: _Session, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return b"", b"NO [TRYCREATE] no such folder"

    monkeypatch.setattr(_Session, "_uid_move", move, raising=False)
    written = items(4)
    async with open_fake(FakeImap()) as server, an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        assert await target.write_items(written, 1) == ()
        del server.folders["Sent"]
        states = tuple(item.state._replace(modseq=9, folder_id=SENT_ID, uid=item.state.uid + 9) for item in written)
        batch = ChangeBatch(through=Watermark(b"f" * 16, InstanceId(b"s" * 16), 20), more=False, items=states)
        await target.apply_changes(batch, 1)
        account = await target.account()
        assert [folder.name for folder in account.folders] == ["INBOX"]
        there = [item.content for item in written if item.state.folder_id == INBOX_ID]
        assert server.contents() == {"INBOX": sorted(there)}


async def test_flags_that_are_no_words_are_read_all_the_same(tmp_path: Path) -> None:
    written = items(4)
    server = FakeImap(quirk=Quirk(answer=lambda command, data: data.replace(b" \\*)]", b" work gro\xdf)]")))
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        assert await (await a_target(endpoint)).write_items(written, 1) == ()
        assert server.contents() == expected(written)


async def test_appendlimit_is_known_before_anything_is_sent(tmp_path: Path) -> None:
    written = items(1)
    server = FakeImap(f"{RICH} APPENDLIMIT=5")
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        target = await a_target(endpoint)
        (bad,) = await target.write_items(written, 1)
        assert bad.kind == "LargeItem"
        assert target.capabilities.item_bytes_max == 5


async def test_messages_with_gaps_are_read_by_commands_that_a_server_must_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "uid_sets", partial(uid_sets, bytes_max=25))
    async with open_fake(FakeImap(RICH)) as server, an_endpoint(server, tmp_path) as endpoint:
        for number in range(60):
            server.add("INBOX", b"Subject: %d\r\n\r\n" % number)
        folder = server.folders["INBOX"]
        folder.mail = folder.mail[::2]
        source = await a_source(endpoint)
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        after = await source.head()
        folder.validity += 1
        server.tick()
        batch = await source.read_feed(after, changes_max=100)
        assert sorted(item.content for item in page.items) == server.contents()["INBOX"]
        assert {state.item_id for state in batch.items} == {item.state.item_id for item in page.items}
        assert max(len(command) for command in server.quirk.commands if b"BODY" in command) < 80


async def test_a_folder_that_was_rebuilt_is_known_again_by_its_messages(tmp_path: Path) -> None:
    """UIDVALIDITY changed: every message has another UID, and none is a new item."""
    async with open_fake(FakeImap(RICH)) as server, an_endpoint(server, tmp_path) as endpoint:
        for number in range(6):
            server.add("INBOX", b"Subject: %d\r\n\r\n" % (number // 2))
        source = await a_source(endpoint)
        after = await source.head()
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        folder = server.folders["INBOX"]
        folder.validity += 1
        folder.mail.reverse()
        for uid, mail in enumerate(folder.mail, 101):
            mail.uid = uid
        folder.uidnext = 107
        server.tick()
        batch = await source.read_feed(after, changes_max=100)
        assert batch.items_gone == ()
        assert {state.item_id for state in batch.items} == {item.state.item_id for item in page.items}
        assert {state.uid for state in batch.items} == set(range(101, 107))


@pytest.mark.parametrize("capabilities", [RICH, PLAIN], ids=["rich", "plain"])
async def test_a_new_folder_with_the_uidvalidity_of_a_deleted_one_has_its_own_messages(
    capabilities: str, tmp_path: Path
) -> None:
    """UIDVALIDITY is of a name: a server may begin with 1 in each folder."""
    async with open_fake(FakeImap(capabilities)) as server, an_endpoint(server, tmp_path) as endpoint:
        for number in range(2):
            server.add("Old", b"Subject: old %d\r\n\r\n" % number)
        validity = server.folders["Old"].validity
        source = await a_source(endpoint)
        after = await source.head()
        old = (await source.read_seed(None, bytes_max=1 << 20, items_max=100)).items
        del server.folders["Old"]
        for number in range(3):
            server.add("New", b"Subject: new %d\r\n\r\n" % number, date="02-Feb-2024 00:00:00 +0000")
        server.folders["New"].validity = validity
        batch = await source.read_feed(after, changes_max=100)
        assert {gone.id for gone in batch.items_gone} == {item.state.item_id for item in old}
        read, _, _ = await source.fetch([state.item_id for state in batch.items], bytes_max=1 << 20)
        assert sorted(item.content for item in read) == server.contents()["New"]


@pytest.mark.parametrize("capabilities", [KINDS["rich"], KINDS["no CONDSTORE"]], ids=["rich", "no CONDSTORE"])
@pytest.mark.parametrize("made", ["anew", "from a backup"])
async def test_uids_that_a_server_gives_once_more_are_other_messages(
    made: str, capabilities: str, tmp_path: Path
) -> None:
    """A folder that was deleted and made anew, by a server that has the same UIDVALIDITY for it again."""
    async with open_fake(FakeImap(capabilities)) as server, an_endpoint(server, tmp_path) as endpoint:
        for number in range(3):
            server.add("Work", b"Subject: old %d\r\n\r\n" % number)
        source = await a_source(endpoint)
        after = await source.head()
        await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        before = server.folders.pop("Work")
        server.folders["Work"] = Folder(before.validity)
        for number in range(2):
            content = before.mail[number].content if made == "from a backup" else b"Subject: new %d\r\n\r\n" % number
            date = before.mail[number].date if made == "from a backup" else "02-Feb-2021 00:00:00 +0000"
            server.add("Work", content, date=date)
        batch = await source.read_feed(after, changes_max=100)
        if made == "from a backup":
            assert (len(batch.items), len(batch.items_gone)) == (0, 1)
        else:
            assert (len(batch.items), len(batch.items_gone)) == (2, 3)
        page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        assert sorted(item.content for item in page.items) == server.contents()["Work"]
        server.quirk.commands.clear()
        assert await source.head() == (await source.account()).head
        if "CONDSTORE" in capabilities:
            assert {command.split()[0] for command in server.quirk.commands} == {b"LIST"}


async def test_no_secret_is_in_what_is_said_to_a_server_that_is_shown(tmp_path: Path) -> None:
    async with open_fake(FakeImap(RICH)) as server, an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        assert "of the fake" not in repr((endpoint, source.session, endpoint.system, server.url))
