"""Programs that run for long, and nobody who reads what they say: mail and moves go on, and they end when told to."""

import fcntl
import os
import signal
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.cli import There, organisation

ADA = "ada@example.org"
PATIENCE_S = 30
SMALLEST_PIPE = 4096


@pytest.fixture
def there(tmp_path: Path) -> There:
    there = There(tmp_path / "root")
    organisation(there)
    return there


@contextmanager
def unread(kind: str) -> Iterator[tuple[int, int]]:
    """(what to read from, in the end; a stderr that takes nothing)."""
    reading, writing = os.pipe()
    if kind == "a full pipe":
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 7 + b"\n")
        os.set_blocking(writing, True)
    elif kind == "a pipe that is closed":
        os.close(reading)
        reading = os.open(os.devnull, os.O_RDONLY)
    else:
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


KINDS = ["a full pipe", "a pipe that is closed", "a full disk"]


@contextmanager
def started(there: There, *words: str, stderr: int) -> Iterator["subprocess.Popen[bytes]"]:
    process = there.start(*words, stderr=stderr)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def deliver(socket: Path, number: int) -> int:
    with smtplib.LMTP(str(socket), local_hostname="mta", timeout=PATIENCE_S) as client:  # type: ignore[arg-type]
        client.ehlo_or_helo_if_needed()
        assert client.mail("eve@example.net")[0] == 250
        assert client.rcpt(ADA)[0] == 250
        return client.data(f"Subject: {number}\r\n\r\n")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_takes_mail_though_nobody_reads_its_log(there: There, kind: str, tmp_path: Path) -> None:
    socket = tmp_path / "lmtp"
    with unread(kind) as (_, stderr), started(there, "lmtp", "--listen", f"unix:{socket}", stderr=stderr) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert [deliver(socket, number) for number in range(3)] == [250] * 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_moves_though_nobody_reads_its_progress(there: There, kind: str, processes: str) -> None:
    there.ok("move", "new", ADA, "--to", "DB2")
    words = ("worker", "--drain", "--processes", processes)
    with unread(kind) as (_, stderr), started(there, *words, stderr=stderr) as process:
        assert process.wait(PATIENCE_S) == 0
    assert "DB2" in there.ok("mailbox", "show", ADA).out
