"""A move between two mailboxes of a real IMAP server, its engine killed at every step while its user works.

A step is a call to a mirror, to the ledger or to the directory, and every piece sent to the server: so a kill may come
between an APPEND and its answer, and between the answer and the note of it. What was sent is still done by the server,
as it is when a process dies. After each kill another process goes on to the end, and then both mailboxes are read by a
mail client: the same messages, each as often, with flags and dates.

By default some steps, `MOVERQ_CRASH_FULL=1` every one.
"""

from pathlib import Path
from typing import Any

import pytest

from moverq.endpoints.imap.connection import Connection
from tests.support.dovecot import shared_dovecot
from tests.support.killed_moves import KilledMove, kill_at_steps
from tests.support.killing import Steps, count_offloads

pytestmark = pytest.mark.slow

STEPS_ASKED = 12


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Every effect of the engine is counted, before and after."""
    steps = Steps()
    send = Connection._send

    async def stepped_send(self: Connection, data: Any) -> None:
        steps.step()
        await send(self, data)
        steps.step()

    count_offloads(monkeypatch, steps)
    monkeypatch.setattr(Connection, "_send", stepped_send)
    return steps


async def a_move(path: Path) -> KilledMove:
    server = shared_dovecot("mdbox")
    return await KilledMove.make(
        path, server, version="IMAP", place=lambda ending: server.url(user="{address}." + ending), within_s=60
    )


async def test_a_move_killed_at_any_step_goes_on_with_no_message_lost_or_doubled(steps: Steps, tmp_path: Path) -> None:
    await kill_at_steps(steps, tmp_path, a_move, asked=STEPS_ASKED)
