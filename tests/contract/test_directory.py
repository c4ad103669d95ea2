"""What every directory holds: addresses, registers, tokens and claims, by compare-and-set, durable on return."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from moverq.directory.directory import DatabaseEntry, Directory, MoveAttributes, Register, Server, normalize_address
from moverq.directory.memory import MemoryDirectory
from moverq.directory.sqlite import SqliteDirectory, init_directory, open_directory
from moverq.endpoints.base import Home
from moverq.errors import EndpointUnavailable, NotFound, RegisterChanged, RequestRefused
from moverq.flow.offload import InThread
from moverq.model.ids import InstanceId, MailboxId, RequestId
from tests.support.slapd import Slapd, real_slapd
from tests.support.tcp_proxy import TcpProxy, is_ldap_write, open_proxy

ANNA, BERT = MailboxId(b"a" * 16), MailboxId(b"b" * 16)
HERE, THERE = Home("DB1", InstanceId(b"1" * 16)), Home("DB2", InstanceId(b"2" * 16))
MINE, OTHERS = RequestId("aa" * 16), RequestId("bb" * 16)


class Bench:
    """A kind of directory under test: it can be opened more than once, and lose an answer."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack

    async def open(self) -> Directory:
        raise NotImplementedError

    def lose_answer(self, verb: str) -> None:
        raise NotImplementedError


class MemoryBench(Bench):
    def __init__(self, stack: AsyncExitStack) -> None:
        super().__init__(stack)
        self.directory = MemoryDirectory()

    async def open(self) -> Directory:
        return self.directory

    def lose_answer(self, verb: str) -> None:
        self.directory.lose_answer(verb)


class SqliteBench(Bench):
    """Inline, or each directory on a thread of its own."""

    def __init__(self, stack: AsyncExitStack, path: Path, *, threads: bool) -> None:
        super().__init__(stack)
        self.path = path
        self.threads = threads
        self.lost = False

    async def open(self) -> Directory:
        run = InThread() if self.threads else inline

        async def offload(fn: Callable[[], Any]) -> Any:
            result = await run(fn)
            if self.lost:
                self.lost = False
                raise EndpointUnavailable(endpoint="directory", why="the answer was lost")
            return result

        return await self.stack.enter_async_context(open_directory(self.path, offload=offload))

    def lose_answer(self, verb: str) -> None:
        self.lost = True


class LdapBench(Bench):
    """Real connections to a real slapd, through a proxy that can lose the answer of a write. Each directory lives in a
    task of its own: what has a nursery is closed where it was opened."""

    def __init__(self, stack: AsyncExitStack, nursery: trio.Nursery, slapd: Slapd, proxy: TcpProxy) -> None:
        super().__init__(stack)
        self.nursery = nursery
        self.proxy = proxy
        self.settings = slapd.settings(uri=f"ldap://127.0.0.1:{proxy.port}")

    async def open(self) -> Directory:
        from moverq.directory.ldap import open_ldap_directory

        async def hold(*, task_status: trio.TaskStatus[Directory]) -> None:
            async with open_ldap_directory(self.settings) as directory:
                task_status.started(directory)
                await trio.sleep_forever()

        opened: Directory = await self.nursery.start(hold)
        return opened

    def lose_answer(self, verb: str) -> None:
        self.proxy.lose_answer()


async def inline(fn: Callable[[], Any]) -> Any:
    await trio.lowlevel.checkpoint()
    return fn()


@pytest.fixture(params=["memory", "sqlite", "sqlite in threads", pytest.param("ldap", marks=pytest.mark.slow)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            yield MemoryBench(stack)
        elif request.param == "ldap":
            from moverq.directory.ldap import init_ldap_directory

            slapd = stack.enter_context(real_slapd(tmp_path / "slapd"))
            proxy = await stack.enter_async_context(open_proxy(slapd.port, is_write=is_ldap_write))
            await init_ldap_directory(slapd.settings(), organisation="Contoso")
            nursery = await stack.enter_async_context(trio.open_nursery())
            yield LdapBench(stack, nursery, slapd, proxy)
            nursery.cancel_scope.cancel()
        else:
            await init_directory(tmp_path / "directory.sqlite", organisation="Contoso")
            yield SqliteBench(stack, tmp_path / "directory.sqlite", threads="threads" in request.param)


@pytest.fixture
async def directory(bench: Bench) -> Directory:
    directory = await bench.open()
    await filled(directory)
    return directory


async def filled(directory: Directory) -> None:
    await directory.add_server(Server(name="MBX1", version="2007 SP2"))
    await directory.add_server(Server(name="MBX2", version="2010", site="Berlin"))
    await directory.add_database(DatabaseEntry(name="DB1", server="MBX1", path="/srv/db1"))
    await directory.add_database(DatabaseEntry(name="DB2", server="MBX2", path="/srv/db2"))
    await directory.add_recipient(ANNA, "anna@example.org", HERE, quota_bytes=5)


async def outcomes(*calls: Callable[[], Awaitable[object]]) -> list[object]:
    """What all of these calls, made at once, returned or raised."""
    found: list[object] = []

    async def call(one: Callable[[], Awaitable[object]]) -> None:
        try:
            found.append(await one())
        except (RegisterChanged, RequestRefused) as error:
            found.append(error)

    async with trio.open_nursery() as nursery:
        for one in calls:
            nursery.start_soon(call, one)
    return found


async def test_a_new_recipient_starts_at_epoch_1_without_token_and_claim(directory: Directory) -> None:
    anna = await directory.recipient(ANNA)
    assert (anna.address, anna.aliases, anna.quota_bytes) == ("anna@example.org", (), 5)
    assert anna.register == Register(HERE, 1)
    assert (anna.token, anna.active_move, anna.move) == (0, None, MoveAttributes())
    assert await directory.locate("anna@example.org") == anna


async def test_servers_and_databases_are_kept_by_name(directory: Directory) -> None:
    assert await directory.server("MBX2") == Server(name="MBX2", version="2010", site="Berlin")
    assert [server.name for server in await directory.servers()] == ["MBX1", "MBX2"]
    assert await directory.database("DB1") == DatabaseEntry(name="DB1", server="MBX1", path="/srv/db1")
    assert [database.name for database in await directory.databases()] == ["DB1", "DB2"]
    with pytest.raises(RequestRefused, match="a server MBX1 already"):
        await directory.add_server(Server(name="MBX1", version="2003"))
    with pytest.raises(RequestRefused, match="a database DB1 already"):
        await directory.add_database(DatabaseEntry(name="DB1", server="MBX2", path="/elsewhere"))
    with pytest.raises(NotFound, match="no server MBX9"):
        await directory.add_database(DatabaseEntry(name="DB9", server="MBX9", path="/srv"))


async def test_a_database_is_said_to_lie_elsewhere(directory: Directory) -> None:
    await directory.set_database_path("DB1", "/srv/new/db1")
    assert await directory.database("DB1") == DatabaseEntry(name="DB1", server="MBX1", path="/srv/new/db1")
    assert (await directory.database("DB2")).path == "/srv/db2"
    assert (await directory.recipient(ANNA)).register == Register(HERE, 1)
    with pytest.raises(NotFound, match="no database DB9"):
        await directory.set_database_path("DB9", "/srv/db9")


async def test_servers_and_databases_go_when_nothing_is_on_them(directory: Directory) -> None:
    with pytest.raises(RequestRefused, match="MBX1 is in use: by the database DB1"):
        await directory.remove_server("MBX1")
    with pytest.raises(RequestRefused, match=r"DB1 is in use: by the mailbox of anna@example\.org"):
        await directory.remove_database("DB1")
    await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE)
    await directory.remove_database("DB1")
    await directory.remove_server("MBX1")
    assert [server.name for server in await directory.servers()] == ["MBX2"]
    assert [database.name for database in await directory.databases()] == ["DB2"]
    with pytest.raises(NotFound, match="no database DB1"):
        await directory.remove_database("DB1")
    with pytest.raises(NotFound, match="no server MBX1"):
        await directory.remove_server("MBX1")
    await directory.add_server(Server(name="MBX1", version="2007"))
    assert (await directory.server("MBX1")).version == "2007"


async def test_a_recipient_goes_with_its_addresses_unless_it_has_moved_or_is_moving(directory: Directory) -> None:
    await directory.add_alias(ANNA, "countess@example.org")
    with pytest.raises(RegisterChanged):
        await directory.remove_recipient(ANNA, expected=Register(THERE, 2))
    await directory.claim_move(ANNA, MINE)
    with pytest.raises(RequestRefused, match=f"is being moved by request {MINE}"):
        await directory.remove_recipient(ANNA, expected=Register(HERE, 1))
    await directory.release_move(ANNA, MINE)
    assert (await directory.recipient(ANNA)).register == Register(HERE, 1)
    await directory.remove_recipient(ANNA, expected=Register(HERE, 1))
    for gone in (directory.locate("anna@example.org"), directory.locate("countess@example.org")):
        with pytest.raises(NotFound):
            await gone
    with pytest.raises(NotFound):
        await directory.remove_recipient(ANNA, expected=Register(HERE, 1))
    assert await directory.recipients() == []
    await directory.remove_database("DB1")
    bert = await directory.add_recipient(BERT, "anna@example.org", THERE)
    assert (bert.register, bert.token, bert.quota_bytes) == (Register(THERE, 1), 0, None)
    assert await directory.locate("anna@example.org") == bert
    await directory.remove_recipient(BERT, expected=bert.register)
    again = await directory.add_recipient(BERT, "anna@example.org", THERE, token=7)
    assert (again.register, again.token) == (Register(THERE, 1), 7)
    assert await directory.take_token(BERT) == 8


async def test_what_is_not_there_is_not_found(directory: Directory) -> None:
    nowhere = Home("DB9", InstanceId(b"9" * 16))
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: directory.server("MBX9"),
        lambda: directory.database("DB9"),
        lambda: directory.recipient(BERT),
        lambda: directory.locate("bert@example.org"),
        lambda: directory.locate("no address"),
        lambda: directory.take_token(BERT),
        lambda: directory.claim_move(BERT, MINE),
        lambda: directory.release_move(BERT, MINE),
        lambda: directory.set_move(BERT, MoveAttributes()),
        lambda: directory.add_alias(BERT, "b@example.org"),
        lambda: directory.add_recipient(BERT, "bert@example.org", nowhere),
        lambda: directory.relocate(BERT, expected=Register(HERE, 1), home=THERE),
        lambda: directory.relocate(ANNA, expected=Register(HERE, 1), home=nowhere),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            await call()
    assert (await directory.recipient(ANNA)).register == Register(HERE, 1)


async def test_an_address_has_one_owner_however_it_is_written(directory: Directory) -> None:
    await directory.add_alias(ANNA, "Anna.Alt@Example.ORG ")
    await directory.add_alias(ANNA, "anna.alt@example.org")
    await directory.add_alias(ANNA, "ANNA@example.org")
    await directory.add_alias(ANNA, "a@example.org")
    await directory.add_recipient(BERT, "Bert@Example.org", HERE)
    assert (await directory.recipient(ANNA)).aliases == ("a@example.org", "anna.alt@example.org")
    assert (await directory.recipient(BERT)).address == "bert@example.org"
    for address in (" ANNA@EXAMPLE.ORG", "anna.alt@example.ORG", "a@example.org"):
        assert (await directory.locate(address)).mailbox_id == ANNA
    with pytest.raises(RequestRefused, match=r"anna\.alt@example\.org belongs to anna@example\.org"):
        await directory.add_alias(BERT, "ANNA.alt@example.org")
    with pytest.raises(RequestRefused, match="belongs to anna"):
        await directory.add_recipient(MailboxId(b"c" * 16), "A@example.org", HERE)
    with pytest.raises(RequestRefused, match="already"):
        await directory.add_recipient(BERT, "other@example.org", HERE)
    with pytest.raises(NotFound):
        await directory.locate("other@example.org")


@pytest.mark.parametrize("address", ["", "anna", "@example.org", "anna@", "an na@example.org", "a\0@example.org"])
async def test_what_is_no_address_is_refused_with_a_sentence(directory: Directory, address: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        normalize_address(address)
    with pytest.raises(RequestRefused, match="is not an address"):
        await directory.add_recipient(BERT, address, HERE)
    with pytest.raises(RequestRefused, match="is not an address"):
        await directory.add_alias(ANNA, address)


async def test_recipients_come_by_address_a_page_at_a_time(directory: Directory) -> None:
    for number in range(25):
        await directory.add_recipient(MailboxId(number.to_bytes(16, "big")), f"u{number:02}@example.org", HERE)
    seen: list[str] = []
    while page := await directory.recipients(after=seen[-1] if seen else "", limit=10):
        assert len(page) <= 10
        seen += [entry.address for entry in page]
    assert seen == ["anna@example.org", *(f"u{number:02}@example.org" for number in range(25))]


async def test_relocate_is_compare_and_set_of_home_and_epoch(directory: Directory) -> None:
    assert await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE) == Register(THERE, 2)
    for stale in (Register(HERE, 1), Register(HERE, 2), Register(THERE, 1), Register(THERE, 3)):
        with pytest.raises(RegisterChanged, match="epoch 2"):
            await directory.relocate(ANNA, expected=stale, home=HERE)
    assert (await directory.recipient(ANNA)).register == Register(THERE, 2)
    assert await directory.relocate(ANNA, expected=Register(THERE, 2), home=THERE) == Register(THERE, 3)


async def test_a_register_names_the_instance_and_not_only_the_database(directory: Directory) -> None:
    twin = Home("DB1", InstanceId(b"3" * 16))
    with pytest.raises(RegisterChanged):
        await directory.relocate(ANNA, expected=Register(twin, 1), home=THERE)
    await directory.relocate(ANNA, expected=Register(HERE, 1), home=twin)
    assert (await directory.recipient(ANNA)).register == Register(twin, 2)


async def test_of_many_who_relocate_at_once_exactly_one_wins(bench: Bench, directory: Directory) -> None:
    rival = await bench.open()
    homes = [Home("DB2", InstanceId(bytes([n]) * 16)) for n in range(40)]
    calls = [
        lambda home=home, who=who: who.relocate(ANNA, expected=Register(HERE, 1), home=home)
        for home, who in zip(homes, [directory, rival] * 20, strict=True)
    ]
    found = await outcomes(*calls)
    winners = [one for one in found if isinstance(one, Register)]
    assert len(winners) == 1
    assert len(found) == 40
    assert (await rival.recipient(ANNA)).register == winners[0]


async def test_of_many_who_claim_at_once_exactly_one_wins(bench: Bench, directory: Directory) -> None:
    rival = await bench.open()
    requests = [RequestId(f"{n:032x}") for n in range(20)]
    calls = [
        lambda request=request, who=who: who.claim_move(ANNA, request)
        for request, who in zip(requests, [directory, rival] * 10, strict=True)
    ]
    found = await outcomes(*calls)
    assert found.count(None) == 1
    assert sum(isinstance(one, RequestRefused) for one in found) == 19


async def test_a_claim_is_its_owners_until_released_by_name(directory: Directory) -> None:
    await directory.claim_move(ANNA, MINE)
    await directory.claim_move(ANNA, MINE)
    with pytest.raises(RequestRefused, match=f"moved by request {MINE}"):
        await directory.claim_move(ANNA, OTHERS)
    await directory.release_move(ANNA, OTHERS)
    assert (await directory.recipient(ANNA)).active_move == MINE
    await directory.release_move(ANNA, MINE)
    await directory.release_move(ANNA, MINE)
    await directory.claim_move(ANNA, OTHERS)
    assert (await directory.recipient(ANNA)).active_move == OTHERS


async def test_tokens_are_handed_out_once_and_never_reset(bench: Bench, directory: Directory) -> None:
    rival = await bench.open()
    await directory.add_recipient(BERT, "bert@example.org", HERE)
    found = await outcomes(*[lambda who=who: who.take_token(ANNA) for who in [directory, rival] * 20])
    assert sorted(found) == list(range(1, 41))
    await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE)
    assert await directory.take_token(ANNA) == 41
    assert (await directory.recipient(ANNA)).token == 41
    assert await directory.take_token(BERT) == 1


async def test_move_attributes_are_shown_and_decide_nothing(directory: Directory) -> None:
    shown = MoveAttributes(status="InProgress", batch_name="wave", source_database="DB1", target_database="DB2")
    before = await directory.recipient(ANNA)
    await directory.set_move(ANNA, shown)
    after = await directory.recipient(ANNA)
    assert after.move == shown
    assert (after.register, after.token, after.active_move) == (before.register, before.token, before.active_move)


async def test_a_lost_answer_leaves_an_effect_that_can_be_read_again(bench: Bench, directory: Directory) -> None:
    bench.lose_answer("relocate")
    with pytest.raises(EndpointUnavailable):
        await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE)
    assert (await directory.recipient(ANNA)).register == Register(THERE, 2), "won, and lost the answer"
    bench.lose_answer("take_token")
    with pytest.raises(EndpointUnavailable):
        await directory.take_token(ANNA)
    assert await directory.take_token(ANNA) == 2, "the lost token is nobody's"
    bench.lose_answer("claim_move")
    with pytest.raises(EndpointUnavailable):
        await directory.claim_move(ANNA, MINE)
    await directory.claim_move(ANNA, MINE)


async def test_everything_is_there_after_closing_and_opening_again(bench: Bench, directory: Directory) -> None:
    await directory.add_alias(ANNA, "a@example.org")
    await directory.take_token(ANNA)
    await directory.claim_move(ANNA, MINE)
    await directory.set_move(ANNA, MoveAttributes(status="Queued"))
    register = await directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE)
    before = await directory.recipient(ANNA)
    await directory.aclose()
    await directory.aclose()
    again = await bench.open()
    assert await again.recipient(ANNA) == before
    assert before.register == register
    assert len(await again.servers()) == len(await again.databases()) == 2


async def test_a_verb_cancelled_while_it_waits_for_its_turn_did_nothing(directory: Directory) -> None:
    verbs: list[Callable[[], Awaitable[object]]] = [
        lambda: directory.relocate(ANNA, expected=Register(HERE, 1), home=THERE),
        lambda: directory.take_token(ANNA),
        lambda: directory.claim_move(ANNA, MINE),
        lambda: directory.add_alias(ANNA, "a@example.org"),
    ]
    before = await directory.recipient(ANNA)
    for verb in verbs:
        with trio.CancelScope() as scope:
            scope.cancel()
            await verb()
        assert scope.cancelled_caught
    assert await directory.recipient(ANNA) == before


async def test_memory_calls_the_hook_at_both_sides_of_an_effect() -> None:
    heard: list[tuple[str, int]] = []
    directory = MemoryDirectory()
    await filled(directory)

    async def hook(name: str) -> None:
        heard.append((name, directory._recipients[ANNA].token))
        if name == "take_token:after" and len(heard) == 4:
            raise EndpointUnavailable(endpoint="directory", why="crashed")

    directory.before = hook
    assert await directory.take_token(ANNA) == 1
    with pytest.raises(EndpointUnavailable):
        await directory.take_token(ANNA)
    assert heard == [
        ("take_token:before", 0),
        ("take_token:after", 1),
        ("take_token:before", 1),
        ("take_token:after", 2),
    ]


async def test_sqlite_is_made_once_and_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "directory.sqlite"
    with pytest.raises(RequestRefused, match="moverq init"):
        async with open_directory(path):
            pass
    assert not path.exists()
    await init_directory(path, organisation="Contoso")
    with pytest.raises(RequestRefused, match="already the directory of Contoso"):
        await init_directory(path, organisation="Fabrikam")
    async with open_directory(path) as directory:
        assert isinstance(directory, SqliteDirectory)
        assert await directory.organisation() == "Contoso"


TAKER = """
import sys, trio
from moverq.directory.sqlite import open_directory
async def main():
    async with open_directory(sys.argv[1]) as directory:
        for _ in range(int(sys.argv[2])):
            print(await directory.take_token(b"a" * 16), flush=True)
trio.run(main)
"""


def start_taker(path: Path, tokens: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", TAKER, str(path), str(tokens)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


@pytest.mark.slow
async def test_sqlite_tokens_are_unique_across_processes(tmp_path: Path) -> None:
    path = tmp_path / "directory.sqlite"
    await init_directory(path, organisation="Contoso")
    async with open_directory(path) as directory:
        await filled(directory)
    takers = [start_taker(path, 150) for _ in range(2)]
    tokens = [int(line) for taker in takers for line in taker.communicate()[0].split()]
    assert all(taker.returncode == 0 for taker in takers)
    assert sorted(tokens) == list(range(1, 301))


@pytest.mark.slow
async def test_sqlite_keeps_what_it_answered_when_killed_in_between(tmp_path: Path) -> None:
    path = tmp_path / "directory.sqlite"
    await init_directory(path, organisation="Contoso")
    async with open_directory(path) as directory:
        await filled(directory)
    highest = 0
    for lines in (1, 7, 20):
        with start_taker(path, 1_000_000) as taker:
            assert taker.stdout is not None
            for _ in range(lines):
                token = int(taker.stdout.readline())
                assert token > highest
                highest = token
            taker.send_signal(signal.SIGKILL)
            rest = [int(line) for line in taker.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
        highest = max([highest, *rest])
        async with open_directory(path) as directory:
            present = (await directory.recipient(ANNA)).token
            assert present in (highest, highest + 1), "at most the one whose answer was killed"
            highest = present
