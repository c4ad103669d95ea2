"""A move between mbox files that a real Dovecot serves, its engine killed at every step while their user works.

A step is a call to a mirror, to the ledger or to the directory, and every change of a name or of a file's bytes on the
disk: so a kill may come in the middle of a message, and of a rewrite. After each kill another process goes on to the
end, and then both mailboxes are read by a mail client: the same messages, each as often, with flags and dates.

By default some steps, `MOVERQ_CRASH_FULL=1` every one.
"""

from pathlib import Path

import pytest

from moverq.endpoints.files import dot_lock, owner, subscriptions
from moverq.endpoints.mbox import appending, index, layout, locks, rewriting
from moverq.flow import folders
from tests.support.dovecot import shared_dovecot
from tests.support.killed_moves import KilledMove, kill_at_steps
from tests.support.killing import Steps, count_disk_calls, count_offloads

pytestmark = pytest.mark.slow

STEPS_ASKED = 16


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Every effect of the engine is counted."""
    steps = Steps()
    count_offloads(monkeypatch, steps)
    count_disk_calls(
        monkeypatch, steps, appending, index, layout, locks, rewriting, dot_lock, owner, subscriptions, folders
    )
    return steps


async def a_move(path: Path) -> KilledMove:
    server = shared_dovecot("mbox")
    home = f"{server.folder}/home/%u"
    return await KilledMove.make(
        path,
        server,
        version="MBOX",
        place=lambda ending: f"mbox:{home}.{ending}/mail:INBOX={home}.{ending}/inbox",
        within_s=120,
    )


def check_owner(move: KilledMove) -> None:
    """Whoever was killed, the user can read what is there."""
    home = move.new.server.home(move.new.user)
    named = [path for path in home.rglob("*") if path.suffix not in (".moverq", ".lock")]
    assert [path for path in named if path.stat().st_uid != home.stat().st_uid] == []


async def test_a_move_killed_at_any_step_goes_on_with_no_message_lost_or_doubled(steps: Steps, tmp_path: Path) -> None:
    await kill_at_steps(steps, tmp_path, a_move, asked=STEPS_ASKED, check=check_owner)
