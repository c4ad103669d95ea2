"""What a program says that runs for long, its log too, without ever waiting for who reads it, or failing with him.

Whoever writes to a pipe waits once it is full: a delivery, and a lock that is held meanwhile. So a thread writes. Lines
for which there is no room any more are left out, and counted; the next line that there is room for is preceded by how
many. What goes to a terminal is waited for, for who stopped that one sees it.
"""

import io
import os
import queue
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

LINES_MAX: Final = 1000
"""That wait to be written, of some hundred bytes mostly."""
END_S: Final = 1.0
"""How long the end of the program waits for the last of them."""


class Unwaited(io.TextIOBase):
    """A stream of lines. Whoever writes to it neither waits nor fails."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._lock = threading.Lock()
        """Never held while something is written to what may wait."""
        self._begun = ""
        """Of a line whose end has not come."""
        self._left_out = 0
        self._lines: queue.Queue[bytes | None] = queue.Queue(LINES_MAX)
        """None: that is all."""
        if not self._is_file:
            threading.Thread(target=self._write_all, name="stderr", daemon=True).start()

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            for line in lines:
                self._offer(f"{line}\n")
        return len(text)

    def end(self) -> None:
        """Everything is written, if that takes no longer than `END_S`."""
        with self._lock:
            if self._begun:
                self._offer(self._begun)
                self._begun = ""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, END_S)
        with suppress(queue.Full):
            self._lines.put_nowait(None)

    def _offer(self, line: str) -> None:
        if self._left_out:
            line = f"moverq: {self._left_out} lines were left out here, for nobody read them\n{line}"
        data = line.encode(errors="backslashreplace")
        if self._is_file:
            self._write(data)
            return
        try:
            self._lines.put_nowait(data)
        except queue.Full:
            self._left_out += 1
        else:
            self._left_out = 0

    def _write_all(self) -> None:
        while (data := self._lines.get()) is not None:
            self._write(data)
            self._lines.task_done()

    def _write(self, data: bytes) -> None:
        with suppress(OSError):  # nobody is there, or there is no room: whom should that be told?
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]


@contextmanager
def unwaited_stderr() -> Iterator[None]:
    """Within, what is written to `sys.stderr` is. Not where that is a terminal, or no file of the system's."""
    before = sys.stderr
    try:
        is_waited = before is None or before.isatty()
        descriptor = -1 if is_waited else before.fileno()
    except (OSError, ValueError):  # no file, or a closed one
        is_waited = True
    if is_waited:
        yield
        return
    before.flush()
    stream = sys.stderr = Unwaited(descriptor)
    try:
        yield
    finally:
        sys.stderr = before
        stream.end()
