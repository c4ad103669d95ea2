"""A move between files that a real Dovecot serves, its engine killed at every step while their user works.

A step is a call to a mirror, to the ledger or to the directory, and every change of a name or of a file's bytes on the
disk: so a kill may come between a rename and the note of it, in the middle of a message or of a batch. After each kill
another process goes on to the end, and then both mailboxes are read by a mail client: the same messages, each as often,
with flags and dates.

By default some steps, `MOVERQ_CRASH_FULL=1` every one.
"""

from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from moverq.endpoints.files import dot_lock, owner, subscriptions
from moverq.endpoints.maildir import folder, writing
from moverq.endpoints.maildir import layout as maildir_layout
from moverq.endpoints.mbox import appending, index, locks, rewriting
from moverq.endpoints.mbox import layout as mbox_layout
from moverq.flow import folders
from tests.support.killed_moves import KilledMove, kill_at_steps
from tests.support.killing import Steps, count_disk_calls, count_offloads
from tests.support.mail_site import PLACES

pytestmark = pytest.mark.slow

STEPS_ASKED = 16
WRITE: dict[str, tuple[ModuleType, ...]] = {
    "maildir": (folder, maildir_layout, writing),
    "mbox": (appending, index, mbox_layout, locks, rewriting),
}
"""The modules that write, by format."""


async def a_move(path: Path, *, form: str) -> KilledMove:
    place = PLACES[form]
    server = place.server()
    return await KilledMove.make(
        path, server, version=form.upper(), place=partial(place.location, server), within_s=120
    )


def check_owner(move: KilledMove) -> None:
    """Whoever was killed, the user can read what is there."""
    home = move.new.server.folder / "home" / move.new.user
    named = [path for path in home.rglob("*") if path.suffix not in (".moverq", ".lock")]
    assert [path for path in named if path.stat().st_uid != home.stat().st_uid] == []


@pytest.mark.parametrize("form", WRITE)
async def test_a_move_killed_at_any_step_goes_on_with_no_message_lost_or_doubled(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    count_offloads(monkeypatch, steps)
    count_disk_calls(monkeypatch, steps, *WRITE[form], dot_lock, owner, subscriptions, folders)
    await kill_at_steps(steps, tmp_path, partial(a_move, form=form), asked=STEPS_ASKED, check=check_owner)
