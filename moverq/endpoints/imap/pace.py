"""Into how many batches is a page of messages cut, to be sent at once? It is measured: no two servers are alike.

n batches of a page are taken by n connections at the same time, and end one after the other: about S/n + n·E, where S
is the time in which one connection takes them all and E that of an end. That is least for n = √(S/E). Dovecot's mdbox
takes 6 MiB in 20 ms and ends in 4: two. A Maildir takes 180 ms: as many as there may be. A far server's end takes the
way there and back, that of a folder with 500,000 messages up to 20 ms: one.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Final, NamedTuple

import attrs

FIRST: Final = 2
"""Batches of the first page."""
NEW_SHARE: Final = 0.25
"""How much of what is expected of the next page is what the last one took."""


class Took(NamedTuple):
    """What one batch took, in seconds. Not that it waited for the end of the one before."""

    sending_s: float
    """Until all but its end was sent: the server takes the bytes as they come, but for what the sockets hold."""
    end_s: float
    """From its end to the answer."""


@attrs.define
class Pace:
    """Of one mailbox, as far as it is known."""

    _taking_s: float = 0.0
    _end_s: float = 0.0

    def batches(self, *, at_most: int) -> int:
        """For the next page."""
        best = round(sqrt(self._taking_s / self._end_s)) if self._end_s else FIRST
        return max(1, min(best, at_most))

    def note(self, batches: Sequence[Took]) -> None:
        """What those of one page took. What an end took longer than the shortest, the server still had to take."""
        end_s = min(took.end_s for took in batches)
        taking_s = sum(took.sending_s + took.end_s for took in batches) - len(batches) * end_s
        share = NEW_SHARE if self._end_s else 1.0
        self._taking_s += share * (taking_s - self._taking_s)
        self._end_s += share * (end_s - self._end_s)
