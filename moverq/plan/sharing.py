"""A worker's share, where it is one of several processes that are one worker together.

All of them see all requests. So that they do not reach for the same ones, each begins with its own mailboxes, by a
number that follows from the mailbox alone, and takes what is left of the others' when it has room. So that together
they keep to the limits of one worker, each has its part of them:

    limit 5, three processes     2  2  1        from the first one on; one at least
    limit 2, three processes     1  1  -        for a target database, from the one on that its name says

Only the last kind may come to nothing for a process. Another has that part, and nothing else that keeps it from the
move: no request is without a process that can run it.
"""

import attrs
import xxhash

from moverq.limits import Limits
from moverq.model.ids import MailboxId


@attrs.frozen
class Share:
    """The part of process `number` of `of`, counted from 0."""

    number: int = 0
    of: int = 1

    def __attrs_post_init__(self) -> None:
        assert 0 <= self.number < self.of

    def comes_first(self, mailbox_id: MailboxId) -> bool:
        """Is this one of the mailboxes that this process begins with?"""
        return xxhash.xxh64_intdigest(mailbox_id) % self.of == self.number

    def target_part(self, limit: int, database: str) -> int:
        """Of a limit for moves into `database`; the parts of all processes are the limit."""
        place = (self.number - xxhash.xxh64_intdigest(database.encode())) % self.of
        return _part(limit, place, self.of)

    def limits(self, whole: Limits) -> Limits:
        """The limits with this process's part of those that are for all processes together. That of moves into one
        target database stays whole: see `target_part`."""
        if self.of == 1:
            return whole

        def part(limit: int) -> int:
            return max(1, _part(limit, self.number, self.of))

        return attrs.evolve(
            whole,
            pages_at_once_max=part(whole.pages_at_once_max),
            cutovers_at_once_max=part(whole.cutovers_at_once_max),
            process_bytes_max=max(whole.move_bytes_max, whole.process_bytes_max // self.of),
            max_active_moves_per_source_mdb=part(whole.max_active_moves_per_source_mdb),
            max_active_moves_per_source_server=part(whole.max_active_moves_per_source_server),
            max_active_moves_per_target_server=part(whole.max_active_moves_per_target_server),
            max_total_moves_per_mrs=part(whole.max_total_moves_per_mrs),
            max_quiet_moves_per_mrs=part(whole.max_quiet_moves_per_mrs),
        )


WHOLE = Share()
"""Of a worker that is one process."""


def _part(limit: int, place: int, of: int) -> int:
    return limit // of + (place < limit % of)
