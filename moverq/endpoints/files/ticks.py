"""What a modification time says, and how long it may be that of two changes."""

from collections.abc import Iterable
from typing import Final

GRANULE_NS: Final = 12_000_000
"""Modification times are ticks of the kernel's clock, 10 ms at the most."""
COARSE_NS: Final = 2_000_000_000
"""Whole seconds are what a file system keeps (some every second one), or what a program has set: Dovecot does so with
an mbox, after each change."""


def granule_ns(mtimes_ns: Iterable[int]) -> int:
    """So long after the last of these times the next change may bear it, too."""
    return COARSE_NS if all(mtime_ns % 1_000_000_000 == 0 for mtime_ns in mtimes_ns) else GRANULE_NS


__all__ = ["COARSE_NS", "GRANULE_NS", "granule_ns"]
