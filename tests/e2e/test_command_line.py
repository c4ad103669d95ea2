"""The real command line, as processes: a whole life, workers that are killed, two workers, interrupts, the demo."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import trio

from moverq import open_root
from moverq.cli import common
from moverq.mailbox_files import import_mail
from moverq.mailmaker import make_mail
from moverq.model.request import SyncStage
from tests.support.cli import MESSAGE, Here, There, organisation

pytestmark = pytest.mark.slow

ADA = "ada@example.org"
ITEMS = 3000


@pytest.fixture
def cli(tmp_path: Path) -> There:
    organisation(Here(tmp_path / "root"))
    return There(tmp_path / "root")


async def fill(root: Path, items: int = ITEMS) -> None:
    async with open_root(root) as opened:
        await import_mail(opened.session(ADA), iter(make_mail(7, items)))


async def wait_stage(root: Path, *stages: SyncStage) -> None:
    """The newest request has come to one of these stages, in whichever process."""
    with trio.fail_after(30):
        async with open_root(root) as opened:
            request = (await opened.move_list())[0].request_id
            while True:
                seen = opened.ledger.version
                (look,) = await opened.look([await opened.find(request)])
                if look.standing.stage in stages:
                    return
                await opened.ledger.wait_changed(seen)


def contents(export: Path) -> list[dict[str, object]]:
    """What an export to .eml holds, but for file names, in an order of its own."""
    lines = [json.loads(line) for line in (export / "index.jsonl").read_text().splitlines()]
    for line in lines:
        line["bytes"] = (export / line.pop("file")).read_bytes().hex()
    return sorted(lines, key=json.dumps)


def test_a_whole_life(cli: There, tmp_path: Path) -> None:
    """From nothing to a move, back again, and out as files that equal those that came in."""
    mail = tmp_path / "mail"
    (mail / "Lists").mkdir(parents=True)
    for number in range(20):
        (mail / ("Lists" if number % 3 else "") / f"{number}.eml").write_bytes(MESSAGE + b"%d\r\n" % number)
    cli.ok("mailbox", "import", ADA, str(mail))
    cli.ok("mailbox", "export", ADA, str(tmp_path / "before"), "--format", "eml")
    cli.ok("move", "new", ADA, "--to", "DB2", "--suspend-when-ready")
    cli.ok("worker", "--drain")
    assert json.loads(cli.ok("move", "show", ADA, "--json").out)["status"] == "AutoSuspended"
    cli.ok("move", "complete", ADA)
    cli.ok("worker", "--drain")
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert (shown["database"], shown["epoch"], shown["items"]) == ("DB2", 2, 20)
    cli.ok("mailbox", "export", ADA, str(tmp_path / "after"), "--format", "eml")
    assert contents(tmp_path / "before") == contents(tmp_path / "after")
    cli.ok("deliver", ADA, "--sender", "bob@example.net", stdin=MESSAGE)
    cli.ok("move", "rollback", ADA, "--wait")
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert (shown["database"], shown["epoch"], shown["items"]) == ("DB1", 3, 21)
    cli.ok("move", "complete", ADA, "--wait")
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait", "--offline")
    assert [one["status"] for one in cli.ok("move", "list", "--json").json] == ["Completed"] * 3


async def test_a_second_worker_finishes_what_a_killed_one_began(cli: There) -> None:
    await fill(cli.root)
    cli.ok("move", "new", ADA, "--to", "DB2")
    with cli.start("worker", "--processes", "1") as worker:
        await wait_stage(cli.root, SyncStage.COPYING_MESSAGES)
        worker.kill()
        worker.communicate()
    stopped = cli.ok("move", "show", ADA, "--json").json
    assert stopped["status"] == "InProgress"
    assert "goes on from" in cli.ok("move", "explain", ADA, "--json").json["what_a_crash_now_would_do"]
    cli.ok("deliver", ADA, stdin=MESSAGE)  # nobody was locked out meanwhile
    cli.ok("worker", "--drain")
    found = cli.ok("move", "show", ADA, "--json").json
    assert found["status"] == "Completed"
    assert found["digest_source"] == found["digest_target"] == found["digest_ledger"]
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert (shown["database"], shown["items"]) == ("DB2", ITEMS + 1)


async def test_two_workers_on_one_root_move_everything_once(cli: There) -> None:
    addresses = [f"user{number}@example.org" for number in range(6)]
    async with open_root(cli.root) as opened:
        for address in addresses:
            await opened.mailbox_add(address, database="DB1")
            await opened.deliver(address, MESSAGE)
    cli.ok("move", "new", *addresses, "--to", "DB2", "--batch", "all")
    with cli.start("worker", "--drain") as one, cli.start("worker", "--drain") as two:
        for worker in (one, two):
            _, err = worker.communicate(timeout=60)
            assert worker.returncode == 0, err
    # One worker may have drained while the other still had the last move: its own drain ends that.
    found = cli.ok("move", "list", "--batch", "all", "--json").json
    assert {one["status"] for one in found} == {"Completed"}
    async with open_root(cli.root) as opened:
        for address in addresses:
            shown = await opened.mailbox_show(address)
            assert (shown.database, shown.epoch, shown.items) == ("DB2", 2, 1)


async def test_wait_watches_a_move_that_another_worker_has(cli: There) -> None:
    await fill(cli.root)
    with cli.start("worker") as worker:
        answer = await trio.to_thread.run_sync(cli.ok, "move", "new", ADA, "--to", "DB2", "--wait", "--json")
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=30)
    assert answer.json["status"] == "Completed"
    assert worker.returncode == 0, err
    assert b"Nothing is lost" in err


async def test_wait_takes_over_from_a_worker_that_is_killed(cli: There) -> None:
    """Its death writes nothing that would ring: only its file lock is free again."""
    await fill(cli.root)
    cli.ok("move", "new", ADA, "--to", "DB2")
    with cli.start("worker", "--processes", "1") as worker, cli.start("move", "resume", ADA, "--wait") as waiting:
        await wait_stage(cli.root, SyncStage.COPYING_MESSAGES)
        os.kill(worker.pid, signal.SIGSTOP)  # whichever has it: the other one does not, and must notice
        worker.kill()
        worker.communicate()
        _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 0, err
    assert cli.ok("mailbox", "show", ADA, "--json").json["database"] == "DB2"


@pytest.mark.parametrize("words", [("deliver", ADA), ("move", "new", "--addresses", "-", "--to", "DB2")])
def test_what_waits_for_stdin_is_interrupted(cli: There, words: tuple[str, ...]) -> None:
    with cli.start(*words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"Subject: half a mes")
        process.stdin.flush()
        left = bytearray(4)
        while fcntl.ioctl(process.stdin, termios.FIONREAD, left) == 0 and any(left):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == common.INTERRUPTED
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 0


@pytest.mark.parametrize("words", [("worker",), ("worker", "--processes", "1"), ("move", "resume", ADA, "--wait")])
async def test_an_interrupted_move_goes_on(cli: There, words: tuple[str, ...]) -> None:
    await fill(cli.root)
    cli.ok("move", "new", ADA, "--to", "DB2")
    with cli.start(*words) as process:
        await wait_stage(cli.root, SyncStage.COPYING_MESSAGES)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert b"othing is lost" in err
    assert b"moverq worker" in err
    assert b"Traceback" not in err
    cli.ok("worker", "--drain")
    assert cli.ok("mailbox", "show", ADA, "--json").json["database"] == "DB2"


def test_moves_that_wait_may_hold_more_open_files_than_a_shell_gives(tmp_path: Path) -> None:
    """Each holds its mirrors and its map, and a hundred of them wait at a time."""
    cli, names = There(tmp_path / "root"), [f"u{number}@example.org" for number in range(20)]
    for name in names:
        for part in ("cur", "new", "tmp"):
            (tmp_path / "old" / name / part).mkdir(parents=True)
        (tmp_path / "old" / name / "new" / "1.a.b").write_bytes(MESSAGE)
    cli.ok("init")
    cli.ok("move", "new", *names, "--from", f"maildir:{tmp_path}/old/%u", "--to", f"maildir:{tmp_path}/new/%u")
    words = [
        "sh",
        "-c",
        'ulimit -Sn 100 && exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "moverq",
        "worker",
        "--processes",
        "1",
    ]
    with subprocess.Popen(words, env={**os.environ, "MOVERQ_ROOT": str(cli.root)}, stderr=subprocess.PIPE) as worker:
        for _ in range(300):
            moves = cli.ok("move", "list", "--json").json
            if all(move["status"] == "Completed" for move in moves):
                break
            time.sleep(0.1)
        files = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
        worker.terminate()
        _, err = worker.communicate(timeout=30)
    assert {move["status"] for move in moves} == {"Completed"}, err
    assert files > 100


def test_a_reader_that_has_enough_is_no_error(cli: There) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "moverq", "mailbox", "list", "--json", "--root", str(cli.root)],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, b"")


def test_help_answers_at_once() -> None:
    """It imports neither trio nor the engine: those cost a quarter of a second where the machine is busy."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "moverq", "--help"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "cyclopts" in imported
    assert imported.isdisjoint({"trio", "apsw", "msgpack", "cattrs", "moverq.root", "store"})


def test_the_demo_finds_everything_where_it_belongs(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "moverq", "demo", "--items", "1000", "--root", str(tmp_path / "root")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "FAIL" not in demo.stdout
    assert demo.stdout.count("each there exactly once") == 2
    assert There(tmp_path / "root").ok("mailbox", "show", ADA, "--json").json["epoch"] == 3


def test_the_demo_moves_ones_own_mail_and_leaves_it_alone(tmp_path: Path) -> None:
    mail = tmp_path / "mail"
    mail.mkdir()
    (mail / "a.eml").write_bytes(MESSAGE)
    demo = subprocess.run(
        [sys.executable, "-m", "moverq", "demo", "--mail", str(mail), "--no-rollback"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    (command,) = (line.split() for line in demo.stdout.splitlines() if "moverq move rollback" in line)
    assert There(tmp_path).ok(*command[1:]).out
    assert [path.name for path in mail.iterdir()] == ["a.eml"]
