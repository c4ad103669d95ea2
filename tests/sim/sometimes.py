"""What a set of runs must have met at least once: one that never gets here is blind, however green it is."""

from collections import Counter

SOMETIMES = (
    "died between append and its answer",
    "compare-and-set answer lost, won",
    "compare-and-set answer lost, lost",
    "a stale worker wakes",
    "a stale worker wakes after the commit",
    "abort races commit",
    "swap during the copy",
    "3-cycle during the copy",
    "inversion during the copy",
    "feed trimmed",
    "disk full in log",
    "disk full in content",
    "disk full at the target of a move",
    "disk error: read",
    "disk error: write",
    "disk error: sync",
    "rollback carries mail",
    "quota hit at the target of a move",
    "duplicate delivery suppressed",
    "verify mismatch repaired",
    "an operator had both sides compared anew",
    "the clock jumped forward",
    "the clock jumped back",
    "power lost",
    "a catalogue fell back",
    "retargeted",
    "dead segments dropped",
    "an endpoint did the same thing twice",
    "an endpoint's answer was lost",
    "a database was opened again after a commit that failed half-way",
    "others ran within a blocking call",
    "waited for another's lock",
    "the intake found the ledger busy",
    "the intake found the directory away",
    "a move that only waits made room for another",
)
"""A straggler cannot be met here: our own store's fence is of class A. `weak_fence` has runs of its own for them."""


def missed(sometimes: Counter[str]) -> list[str]:
    """Of the list, what was not reached."""
    return [what for what in SOMETIMES if not sometimes[what]]
