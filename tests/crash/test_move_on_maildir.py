"""A move between two Maildirs that a real Dovecot serves, its engine killed at every step while their user works.

A step is a call to a mirror, to the ledger or to the directory, and every change of a name or of a file's bytes on the
disk: so a kill may come between a rename and the note of it, and in the middle of a batch. After each kill another
process goes on to the end, and then both mailboxes are read by a mail client: the same messages, each as often, with
flags and dates.

By default some steps, `MOVERQ_CRASH_FULL=1` every one.
"""

import os
import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
import trio

from moverq.endpoints.maildir import folder, layout, side_files, writing
from moverq.model.ids import RequestId
from moverq.model.request import Status
from moverq.root import init_root, open_root
from tests.support.dovecot import shared_dovecot
from tests.support.imap_world import Mailbox
from tests.support.killing import Killed, Steps, count_offloads, was_killed

pytestmark = pytest.mark.slow

FULL = os.environ.get("MOVERQ_CRASH_FULL") == "1"
STEPS_ASKED = 16
DISK_CALLS = ("rename", "unlink", "open", "utime", "fsync", "mkdir", "rmdir")


class CountedOs:
    """The module `os` as the endpoint sees it: each call that changes the disk is a step."""

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


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Every effect of the engine is counted."""
    steps = Steps()
    count_offloads(monkeypatch, steps)
    for module in (folder, layout, side_files, writing):
        monkeypatch.setattr(module, "os", CountedOs(steps))
    return steps


@attrs.frozen
class World:
    path: Path
    address: str
    old: Mailbox
    new: Mailbox
    request: RequestId

    @classmethod
    async def make(cls, path: Path, messages: int) -> "World":
        server = shared_dovecot("maildir")
        address = f"{uuid4().hex[:12]}@example.com"
        old = Mailbox(server, f"{address}.old", random.Random(3))
        new = Mailbox(server, f"{address}.new", random.Random(4))
        await trio.to_thread.run_sync(old.fill, messages)
        for _ in range(2):
            old.add("Sent", b"Subject: an equal copy\r\n\r\n")
        await init_root(path)
        async with open_root(path) as root:
            await root.server_add("files", version="MAILDIR")
            for name in ("OLD", "NEW"):
                where = f"maildir:{server.folder}/home/%u.{name.lower()}/Maildir"
                await root.database_add(name, server="files", path=where)
            await root.mailbox_add(address, database="OLD")
            request = await root.move(address, to="NEW")
        return cls(path, address, old, new, request)

    async def run(self) -> str:
        """One process, until the move rests."""
        with trio.fail_after(120):
            async with open_root(self.path) as root:
                return (await root.wait(self.request)).status

    async def is_at_old(self) -> bool:
        async with open_root(self.path) as root:
            return (await root.directory.locate(self.address)).register.home.database == "OLD"

    def close(self) -> None:
        self.old.close()
        self.new.close()


async def count_steps(steps: Steps, path: Path) -> int:
    world = await World.make(path, 8)
    steps.begin(0)
    try:
        assert await world.run() == Status.COMPLETED.value
        return steps.count
    finally:
        world.close()


async def killed_and_resumed(steps: Steps, path: Path, kill_at: int) -> None:
    world = await World.make(path, 8)
    try:
        steps.begin(kill_at)
        died = False
        try:
            await world.run()
        except BaseExceptionGroup as group:
            died = was_killed(group)
        except Killed:
            died = True
        if not died:
            return  # how often a process looks at the ledger differs from run to run: this one had fewer steps
        steps.restart()
        if await world.is_at_old():
            # Its user goes on working while no engine runs.
            world.old.add("INBOX")
            world.old.flag("Sent")
            world.old.move("Sent", "INBOX")
            world.old.expunge("INBOX")
        assert await world.run() in (Status.COMPLETED.value, Status.COMPLETED_WITH_WARNING.value)
        assert world.new.mail() == world.old.mail()
        home = world.new.server.home(world.new.user)
        named = [path for path in home.rglob("*") if path.suffix != ".moverq"]
        assert [path for path in named if path.stat().st_uid != home.stat().st_uid] == []
    finally:
        world.close()


async def test_a_move_killed_at_any_step_goes_on_with_no_message_lost_or_doubled(steps: Steps, tmp_path: Path) -> None:
    total = await count_steps(steps, tmp_path / "whole")
    asked = range(1, total + 1) if FULL else sorted({1 + n * total // STEPS_ASKED for n in range(STEPS_ASKED)})
    for kill_at in asked:
        try:
            await killed_and_resumed(steps, tmp_path / str(kill_at), kill_at)
        except BaseException as error:
            error.add_note(f"killed at step {kill_at} of {total}")
            raise
