"""I22, the store's half: opening a database again changes nothing, also where the opening before it died half-way.

Asked of copies, at the moments that a recovery is for: the power is back and nobody has opened anything yet.

    copy ── open                           what recovery comes to
    copy ── open, dies at some disk call ── open ── open      and this has to be the same
"""

import random
import shutil
from contextlib import closing, suppress
from pathlib import Path

import store
from store.catalogue.compare import differences
from store.catalogue.schema import open_catalogue
from store.database import _Resources
from store.layout import Layout
from tests.support.crashing_disk import CrashingDisk, PowerLoss

RULE = "I22 recovery is idempotent"
EVERYTHING_KEPT = 1
"""A seed of `CrashingDisk.power_off`."""


def check_recovery(path: Path, scratch: Path, *, now_ms: int, rng: random.Random) -> str | None:
    """None, or how recovering the database at `path` several times differs from recovering it once."""
    once, again = scratch / "once", scratch / "again"
    try:
        for copy in (once, again):
            shutil.copytree(path, copy)
        calls = _opened(once, now_ms=now_ms)
        if calls:
            _opened(again, now_ms=now_ms, stop_at=rng.randrange(1, calls + 1))
        for _ in range(2):
            _opened(again, now_ms=now_ms)
        with (
            closing(open_catalogue(Layout(once).catalogue)) as one,
            closing(open_catalogue(Layout(again).catalogue)) as b,
        ):
            found = differences(one, b)
        return f"once and again differ: {found[0]}" if found else None
    except store.StoreError as error:
        return f"it cannot be recovered a second time: {error}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _opened(path: Path, *, now_ms: int, stop_at: int | None = None) -> int:
    """The database was opened and left, or its opener died at that disk call. How many calls there were."""
    disk = CrashingDisk(stop_at=stop_at)
    resources = _Resources(path, disk, lambda: now_ms)
    try:
        with suppress(PowerLoss):
            resources.open()
        resources.close()
        return disk.calls
    finally:
        disk.power_off(EVERYTHING_KEPT)  # the process died, not the machine
