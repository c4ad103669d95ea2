"""An engine that is killed at a step, in one process with the tests.

A step is a call to a mirror, to the ledger or to the directory, and whatever else a test counts. Of a process that died
the kernel gives back the locks; `count_offloads` does so for an engine.
"""

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import attrs
import pytest

from moverq.flow.file_lock import FileLock
from moverq.flow.offload import InThread

T = TypeVar("T")


DISK_CALLS = ("rename", "unlink", "open", "utime", "fsync", "mkdir", "rmdir", "pwrite", "ftruncate")


class Killed(BaseException):
    """The process is gone."""


@attrs.define(eq=False)
class Steps:
    """Counts, and kills at `kill_at`; from then on nothing is done any more."""

    kill_at: int = 0
    count: int = 0
    dead: bool = False
    locks: list[FileLock] = attrs.Factory(list)

    def step(self) -> None:
        self.count += 1
        if self.dead or self.count == self.kill_at:
            self.dead = True
            raise Killed

    def begin(self, kill_at: int) -> None:
        self.kill_at, self.count, self.dead = kill_at, 0, False

    def restart(self) -> None:
        """Another process, which nobody kills."""
        while self.locks:
            self.locks.pop().release()
        self.begin(0)


def count_offloads(monkeypatch: pytest.MonkeyPatch, steps: Steps) -> None:
    """Every piece of blocking work is a step, before it and after it."""
    offload, try_acquire = InThread.__call__, FileLock.try_acquire

    async def stepped_offload(self: InThread, fn: Callable[[], T]) -> T:
        steps.step()
        done = await offload(self, fn)
        steps.step()
        return done

    def known_acquire(self: FileLock) -> bool:
        steps.locks.append(self)
        return try_acquire(self)

    monkeypatch.setattr(InThread, "__call__", stepped_offload)
    monkeypatch.setattr(FileLock, "try_acquire", known_acquire)


class CountedOs:
    """The module `os` as an endpoint that works on files sees it: each call that changes the disk is a step."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in DISK_CALLS:
            return found

        def stepped(*given: Any, **named: Any) -> Any:
            self._steps.step()
            done = found(*given, **named)
            if name not in ("open", "fsync"):
                self._steps.step()
            return done

        return stepped


def count_disk_calls(monkeypatch: pytest.MonkeyPatch, steps: Steps, *modules: ModuleType) -> None:
    """Every change that these modules make on the disk is a step."""
    for module in modules:
        monkeypatch.setattr(module, "os", CountedOs(steps))


def was_killed(group: BaseExceptionGroup[BaseException]) -> bool:
    """The engine ended because of `Killed`, and of nothing that it did wrong."""
    killed, rest = group.split(Killed)
    assert rest is None or all(type(leaf).__name__ == "Cancelled" for leaf in leaves(rest)), rest
    return killed is not None


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
