"""A worker of several processes, with real ones: stopped, orphaned, and losing one in the middle of moves."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from moverq import open_root
from moverq.mailbox_files import import_mail
from moverq.mailmaker import make_mail
from moverq.model.ids import RequestId
from moverq.model.request import SyncStage
from moverq.root import Root
from tests.support.cli import MESSAGE, Here, There, organisation

pytestmark = pytest.mark.slow

COPYING = (SyncStage.LOADING_MESSAGES, SyncStage.COPYING_MESSAGES)
PROCESSES = 2


@pytest.fixture
def cli(tmp_path: Path) -> There:
    organisation(Here(tmp_path / "root"), mailboxes=())
    return There(tmp_path / "root")


@contextmanager
def worker(cli: There, *words: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The worker's parent, in a process group of its own; at the end it is gone, and its children with it."""
    command = ("worker", "--processes", str(PROCESSES), *words)
    with log.open("wb") as said, cli.start(*command, stderr=said, own_group=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # there is nobody left
                os.killpg(process.pid, signal.SIGKILL)


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(ppid) == parent and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (other processes, nothing here tells)
            await trio.sleep(0.02)


async def to_be_moved(root: Root, count: int, *, items: int) -> list[str]:
    """Mailboxes, and a request for each."""
    addresses = [f"user{number}@example.org" for number in range(count)]
    for number, address in enumerate(addresses):
        await root.mailbox_add(address, database="DB1")
        await import_mail(root.session(address), iter(make_mail(number, items)))
    for address in addresses:
        await root.move(address, to="DB2")
    return addresses


async def at_work(root: Root, count: int, *stages: SyncStage) -> RequestId:
    """So many moves, or more, have come to one of these stages, and no further. Returns the first of them."""
    with trio.move_on_after(60):
        while True:
            seen = root.ledger.version
            standings = await root.ledger.find()
            found = [standing.request.request_id for standing in standings if standing.stage in stages]
            if len(found) >= count:
                return found[0]
            await root.ledger.wait_changed(seen)
    raise AssertionError([(one.stage.value, one.status.value, one.message) for one in standings])


def holder_of(root: Root, request: RequestId) -> int | None:
    """The process that has this move, by the kernel's list of locks."""
    inode = root.ledger.lock_path(request).stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return int(words[4])
    return None


async def all_moved(root: Root, addresses: list[str], *, items: int) -> None:
    """Each once, with everything that was in it."""
    assert Counter(one.status for one in await root.move_list()) == {"Completed": len(addresses)}
    for address in addresses:
        shown = await root.mailbox_show(address)
        assert (shown.database, shown.epoch, shown.items) == ("DB2", 2, items), address


async def ended(process: "subprocess.Popen[bytes]", seconds: float = 30) -> int:
    with trio.fail_after(seconds):
        return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


async def test_twenty_mailboxes_are_moved_once_each_while_mail_comes(cli: There, tmp_path: Path) -> None:
    async with open_root(cli.root) as root:
        addresses = await to_be_moved(root, 20, items=30)
        delivered: Counter[str] = Counter()
        # In the nursery: one that delivers to each in turn, until the worker has drained.
        async with trio.open_nursery() as nursery:

            async def deliver() -> None:
                while True:
                    for address in addresses:
                        content = MESSAGE + b"%d\r\n" % delivered[address]
                        sending = root.session(address)
                        await sending.use(lambda place, c=content: place.mailbox.deliver(c, key=c))  # type: ignore[misc]
                        delivered[address] += 1

            nursery.start_soon(deliver)
            with worker(cli, "--drain", log=tmp_path / "log") as process:
                assert await ended(process, 90) == 0, (tmp_path / "log").read_text()
            nursery.cancel_scope.cancel()
        assert min(delivered.values()) > 0
        assert Counter(one.status for one in await root.move_list()) == {"Completed": 20}
        for address in addresses:
            shown = await root.mailbox_show(address)
            assert (shown.database, shown.epoch) == ("DB2", 2)
            assert shown.items - 30 - delivered[address] in (0, 1), "the last one may have been cut short, and be there"
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if not line.startswith("request=")] == [], "whole lines, and nothing to complain of"
    completed = {line.split()[1] for line in lines if "status=Completed" in line}
    assert completed == {f"address={address}" for address in addresses}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_to_all_of_them_stops_them_at_safe_points(
    cli: There, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """As a terminal sends it, and systemd: the children get it from there and hear of it from their parent, and that
    is no second signal."""
    async with open_root(cli.root) as root:
        addresses = await to_be_moved(root, 2, items=4000)
        with worker(cli, log=tmp_path / "log") as process:
            await at_work(root, 1, *COPYING)
            children = children_of(process.pid)
            assert len(children) == PROCESSES
            os.killpg(process.pid, number)
            assert await ended(process) == code
            assert not any(map(is_there, children))
        said = (tmp_path / "log").read_text()
        assert said.count("stopping; moves leave at their next safe point") == 1
        assert said.count("stopped. Nothing is lost: `moverq worker` goes on.") == 1
        assert "Traceback" not in said
        with worker(cli, "--drain", log=tmp_path / "log") as process:
            assert await ended(process) == 0
        await all_moved(root, addresses, items=4000)


async def test_children_end_where_their_parent_is_killed(cli: There, tmp_path: Path) -> None:
    async with open_root(cli.root) as root:
        addresses = await to_be_moved(root, 2, items=4000)
        with worker(cli, log=tmp_path / "log") as process:
            await at_work(root, 1, *COPYING)
            children = children_of(process.pid)
            process.kill()
            await ended(process)
            await until(lambda: not any(map(is_there, children)))
        assert "Traceback" not in (tmp_path / "log").read_text()
        cli.ok("worker", "--drain")
        await all_moved(root, addresses, items=4000)


@pytest.mark.parametrize("words", [(), ("--drain",)])
async def test_a_process_that_is_killed_is_started_again_and_no_move_waits_for_it(
    cli: There, tmp_path: Path, words: tuple[str, ...]
) -> None:
    async with open_root(cli.root) as root:
        addresses = await to_be_moved(root, 6, items=1500)
        with worker(cli, *words, log=tmp_path / "log") as process:
            killed = holder_of(root, await at_work(root, 1, *COPYING))
            assert killed in children_of(process.pid)
            os.kill(killed, signal.SIGKILL)
            await until(lambda: killed not in children_of(process.pid))
            await at_work(root, 6, SyncStage.SOAK)
            if not words:
                await until(lambda: len(children_of(process.pid)) == PROCESSES)
                process.terminate()
            assert await ended(process, 60) == 0
        said = (tmp_path / "log").read_text()
        assert f"(pid {killed}) was killed by SIGKILL. Its moves go on; it is started again in 1 s." in said
        await all_moved(root, addresses, items=1500)


async def test_a_child_that_is_told_to_end_by_somebody_else_ends_well_and_is_replaced(
    cli: There, tmp_path: Path
) -> None:
    with worker(cli, log=tmp_path / "log") as process:
        await until(lambda: len(children_of(process.pid)) == PROCESSES)
        await trio.sleep(1)  # until it listens: what comes before is for its parent to say
        (first, second) = children_of(process.pid)
        os.kill(first, signal.SIGTERM)
        await until(lambda: first not in children_of(process.pid))
        await until(lambda: len(children_of(process.pid)) == PROCESSES)
        assert second in children_of(process.pid)
        process.terminate()
        assert await ended(process) == 0
    assert f"(pid {first}) ended with exit code 0" in (tmp_path / "log").read_text()


async def test_a_second_signal_cuts_short(cli: There, tmp_path: Path) -> None:
    """Each process is given something that it cannot leave soon: a stopped one, which no safe point is reached in."""
    async with open_root(cli.root) as root:
        addresses = await to_be_moved(root, 2, items=4000)
        with worker(cli, log=tmp_path / "log") as process:
            await at_work(root, 1, *COPYING)
            children = children_of(process.pid)
            for child in children:
                os.kill(child, signal.SIGSTOP)
            process.terminate()
            await until(lambda: "stopping" in (tmp_path / "log").read_text())
            assert process.poll() is None
            process.terminate()
            await trio.sleep(0.2)
            for child in children:
                os.kill(child, signal.SIGCONT)
            assert await ended(process, 5) == 0, "less than the deadline of the first one"
        cli.ok("worker", "--drain")
        await all_moved(root, addresses, items=4000)
