"""A hold on a database's files: meanwhile none of them goes away.

Whoever reads log, checkpoints and segments as they stand, for as long as that takes, holds them: a check does. What
only removes what nothing needs any more (old log, old checkpoints, dead segments) does so when nobody holds them, and
leaves it to its next round otherwise. Nobody waits for a hold, and it dies with its process: a lock on a file, shared
by those who hold, exclusive for the moment of removing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from store.disk import Disk
from store.layout import Layout


@contextmanager
def held(disk: Disk, layout: Layout) -> Iterator[bool]:
    """Nothing is removed meanwhile. True where nobody else held it when this began."""
    lock = disk.open(layout.hold_lock, create=True)
    try:
        alone = lock.lock(exclusive=True, wait=False)
        lock.lock(exclusive=False, wait=True)  # for as long as somebody removes
        yield alone
    finally:
        lock.close()


@contextmanager
def removing(disk: Disk, layout: Layout) -> Iterator[bool]:
    """May something be removed? False: somebody holds it, or is removing."""
    lock = disk.open(layout.hold_lock, create=True)
    try:
        yield lock.lock(exclusive=True, wait=False)
    finally:
        lock.close()
