"""Several processes that are one worker, and the parent that looks after them and does nothing else.

    moverq worker ─┬─ process 1     each a whole service with its share of the moves and limits (`plan.sharing`)
         │         └─ process 2
         └ a line to each: a pipe. One byte on it: stop at the next safe point; a second: now.
           Its end, for whoever held the other one is gone, however it died: stop at the next safe point.

Forked rather than started anew: what was imported is shared, and a process that died is replaced at once. So the parent
has one thread, no event loop, and nothing open. It waits for signals alone. A terminal, or systemd, sends them to all
processes, so to a child a signal is a wish to stop and never a second one: only the parent counts.

What always holds: a child has the reading end of its own line and no other's, or it would not see its parent die.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

import attrs

from moverq.cli.common import BUG, FAILED, INTERRUPTED, OK, say
from moverq.plan.restarting import restart_after_s
from moverq.plan.sharing import Share

STOPS = (signal.SIGINT, signal.SIGTERM)
TOLD = b"."

Work = Callable[[Share, int], int]
"""What a child does: its share, the reading end of its line; the exit code."""


@attrs.define(eq=False)
class Child:
    """One process, as its parent knows it."""

    share: Share
    pid: int
    line: int
    """The writing end."""

    def tell(self) -> None:
        with suppress(BrokenPipeError):  # it is ending
            os.write(self.line, TOLD)


@attrs.define(eq=False)
class Parent:
    """Made by `run_processes`."""

    work: Work
    of: int
    drain: bool
    children: dict[int, Child] = attrs.field(factory=dict, init=False)
    due: dict[int, float] = attrs.field(factory=dict, init=False)
    """Numbers of processes that died, and when each is started again."""
    deaths: list[float] = attrs.field(factory=list, init=False)
    signals: list[int] = attrs.field(factory=list, init=False)
    told: int = attrs.field(default=0, init=False)
    """How often everybody was told to stop."""
    code: int = attrs.field(default=OK, init=False)
    """Of what ended badly."""

    def run(self) -> int:
        """Until all have ended. The exit code: that of what could not be cured, else that of the signal."""
        for number in range(self.of):
            self.start(number)
        while self.children or self.due:
            self.wait()
            for child in list(self.children.values()):
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    self.ended(child, os.waitstatus_to_exitcode(status))
            for number in [number for number, at in self.due.items() if at <= time.monotonic()]:
                del self.due[number]
                self.start(number)
        if self.code == OK and self.signals:
            say("moverq: stopped. Nothing is lost: `moverq worker` goes on.")
        return self.code or (INTERRUPTED if signal.SIGINT in self.signals else OK)

    def start(self, number: int) -> None:
        """The process is there."""
        share = Share(number, self.of)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            for line in (writing, *(other.line for other in self.children.values())):
                os.close(line)
            be_child(lambda: self.work(share, reading))
        os.close(reading)
        self.children[number] = Child(share, pid, writing)

    def wait(self) -> None:
        """Until a signal has come, which has been seen to, or a process is due."""
        waited = (*STOPS, signal.SIGCHLD)
        if self.due:
            got = signal.sigtimedwait(waited, max(0.0, min(self.due.values()) - time.monotonic()))
        else:
            got = signal.sigwaitinfo(waited)
        if got is not None and got.si_signo != signal.SIGCHLD:
            self.signals.append(got.si_signo)
            self.stop()
            if self.told == 1:
                say("moverq: stopping; moves leave at their next safe point")

    def stop(self) -> None:
        """Everybody is told, once more; nobody is started any more."""
        self.told += 1
        self.due.clear()
        for child in self.children.values():
            child.tell()

    def ended(self, child: Child, code: int) -> None:
        """One process is gone: as it should be, or another takes its place, or the worker ends."""
        del self.children[child.share.number]
        os.close(child.line)
        if code == OK and (self.told or self.drain):
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        who = f"process {child.share.number + 1} of {self.of} (pid {child.pid}) {how}"
        if self.told:
            say(f"moverq: {who} while it was stopping. Nothing is lost: `moverq worker` goes on.")
            self.code = self.code or _bad(code)
            return
        self.deaths.append(time.monotonic())
        seconds = restart_after_s(self.deaths, now=self.deaths[-1])
        if seconds is not None:
            self.due[child.share.number] = self.deaths[-1] + seconds
            say(f"moverq: {who}. Its moves go on; it is started again in {seconds:.0f} s.")
            return
        say(f"moverq: {who}, as others have: too often, so the worker stops. Nothing is lost.")
        self.code = _bad(code)
        self.stop()


def run_processes(work: Work, *, of: int, drain: bool) -> int:
    """So many processes have done their `work`, however often one had to be replaced. Returns the exit code.

    `drain`: a process that ends by itself, and well, is done; else it is replaced as one that died.
    """
    assert threading.active_count() == 1, "a fork takes this thread alone along"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, signal.SIGCHLD))
    try:
        return Parent(work, of, drain).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def try_in_child(check: Callable[[], int]) -> int:
    """The exit code of `check`, which leaves this process as it was: no thread, nothing open."""
    pid = os.fork()
    if pid == 0:
        be_child(check)
    _, status = os.waitpid(pid, 0)
    return _bad(code) if (code := os.waitstatus_to_exitcode(status)) else OK


def be_child(work: Callable[[], int]) -> None:
    """Does not return. Signals that are meant for the parent do nothing, until `work` says what they do."""
    code = BUG
    try:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPS, signal.SIGCHLD))
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the parent's is to be ended here, neither its callers nor its exit handlers


def _bad(code: int) -> int:
    """An exit code for how a process ended that was not to: its own, or, where a signal killed it or it ended without
    a word, that of something that ended and not well."""
    return code if code > OK else FAILED


__all__ = ["run_processes", "try_in_child"]
