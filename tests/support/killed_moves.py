"""A move between two mailboxes of a real mail server, its engine killed at a step while their user works.

After each kill another process goes on to the end, and then both mailboxes are read by a mail client: the same
messages, each as often, with flags and dates. What is between the engine and the mailboxes, and so what a step is
beside those of `killing`, is the caller's to say.
"""

import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import attrs
import trio

from moverq.model.ids import RequestId
from moverq.model.request import Status
from moverq.root import init_root, open_root
from tests.support.dovecot import Dovecot
from tests.support.imap_world import Mailbox
from tests.support.killing import Killed, Steps, was_killed

FULL = os.environ.get("MOVERQ_CRASH_FULL") == "1"
MESSAGES = 8


@attrs.frozen
class KilledMove:
    """A user's mail at the old place, an empty new one, and a request to move it."""

    path: Path
    address: str
    old: Mailbox
    new: Mailbox
    request: RequestId
    within_s: float

    @classmethod
    async def make(
        cls, path: Path, server: Dovecot, *, version: str, place: Callable[[str], str], within_s: float
    ) -> "KilledMove":
        """`place`: the path of the database whose users' names end so at the server."""
        address = f"{uuid4().hex[:12]}@example.com"
        old = Mailbox(server, f"{address}.old", random.Random(3))
        new = Mailbox(server, f"{address}.new", random.Random(4))
        await trio.to_thread.run_sync(old.fill, MESSAGES)
        for _ in range(2):
            old.add("Sent", b"Subject: an equal copy\r\n\r\n")
        await init_root(path)
        async with open_root(path) as root:
            for name in ("OLD", "NEW"):
                await root.server_add(f"mail-{name}", version=version)
                await root.database_add(name, server=f"mail-{name}", path=place(name.lower()))
            await root.mailbox_add(address, database="OLD")
            request = await root.move(address, to="NEW")
        return cls(path, address, old, new, request, within_s)

    async def run(self) -> str:
        """One process, until the move rests."""
        with trio.fail_after(self.within_s):
            async with open_root(self.path) as root:
                return (await root.wait(self.request)).status

    async def is_at_old(self) -> bool:
        async with open_root(self.path) as root:
            return (await root.directory.locate(self.address)).register.home.database == "OLD"

    def close(self) -> None:
        self.old.close()
        self.new.close()


Make = Callable[[Path], Awaitable[KilledMove]]


async def kill_at_steps(
    steps: Steps,
    path: Path,
    make: Make,
    *,
    asked: int,
    check: Callable[[KilledMove], None] | None = None,
) -> None:
    """A move of its own for each of so many steps, or for every one (`MOVERQ_CRASH_FULL=1`). `check`: what else holds
    at the end."""
    total = await _count_steps(steps, await make(path / "whole"))
    for kill_at in range(1, total + 1) if FULL else sorted({1 + n * total // asked for n in range(asked)}):
        try:
            await _killed_and_resumed(steps, await make(path / str(kill_at)), kill_at, check)
        except BaseException as error:
            error.add_note(f"killed at step {kill_at} of {total}")
            raise


async def _count_steps(steps: Steps, move: KilledMove) -> int:
    steps.begin(0)
    try:
        assert await move.run() == Status.COMPLETED.value
        return steps.count
    finally:
        move.close()


async def _killed_and_resumed(
    steps: Steps, move: KilledMove, kill_at: int, check: Callable[[KilledMove], None] | None
) -> None:
    try:
        steps.begin(kill_at)
        died = False
        try:
            await move.run()
        except BaseExceptionGroup as group:
            died = was_killed(group)
        except Killed:
            died = True
        if not died:
            return  # how often a process looks at the ledger differs from run to run: this one had fewer steps
        steps.restart()
        if await move.is_at_old():
            # Its user goes on working while no engine runs.
            move.old.add("INBOX")
            move.old.flag("Sent")
            move.old.move("Sent", "INBOX")
            move.old.expunge("INBOX")
        assert await move.run() in (Status.COMPLETED.value, Status.COMPLETED_WITH_WARNING.value)
        assert move.new.mail() == move.old.mail()
        if check is not None:
            check(move)
    finally:
        move.close()
