"""A stream of lines that nobody waits for."""

import fcntl
import os
import sys
import threading

import pytest

from moverq.cli.stderr import LINES_MAX, Unwaited, unwaited_stderr


def test_lines_that_there_is_no_room_for_are_left_out_and_counted() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    stream = Unwaited(writing)
    count = 2 * LINES_MAX
    for number in range(count):
        print(f"{number:06}".ljust(99, "."), file=stream)
    read: list[bytes] = []
    with os.fdopen(reading, "rb") as pipe:
        reader = threading.Thread(target=lambda: read.append(pipe.read()))
        reader.start()
        stream._lines.join()
        print("the next one", file=stream)
        stream._lines.join()
        stream.end()
        os.close(writing)
        reader.join()
    lines = read[0].decode().splitlines()
    kept = [line for line in lines if line.endswith("..")]
    assert lines[-1] == "the next one"
    left_out = [
        int(line.split()[1]) for line in lines if line.endswith("lines were left out here, for nobody read them")
    ]
    assert sum(left_out) + len(kept) == count  # more than one note, where the thread was slow at first
    numbers = [int(line[:6]) for line in kept]
    assert numbers == sorted(set(numbers))
    assert LINES_MAX <= len(kept) < count


def joined() -> list[threading.Thread]:
    """Those that are left when the writers had time to end."""
    for thread in threading.enumerate():
        if thread.name == "stderr":
            thread.join(30)
    return threading.enumerate()


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_what_is_written_in_pieces_is_there_at_the_end(
    kind: str, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    if kind == "file":
        writing = os.open(f"{os.fspath(tmp_path)}/log", os.O_RDWR | os.O_CREAT)
        reading = writing
    with open(writing, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with unwaited_stderr():
            print("a", "b", file=sys.stderr)
            print("c", end="", file=sys.stderr)
        assert sys.stderr is stream
    assert not any(thread.name == "stderr" for thread in joined())
    if kind == "file":
        os.lseek(reading, 0, os.SEEK_SET)
    assert os.read(reading, 100) == b"a b\nc"
