"""Which queued requests run now.

Priority first, then age; a request whose source or target is at its limit is passed over and keeps its place, so a
full database holds up nobody else, and nobody starves: running moves end, and of those that wait for one database
the first in order is the next. A mailbox is moved by one request at a time.

Moves that only wait (`quiet`: a soak may last weeks) have places of their own. Where there are more of them than
places, they take turns: who has had his longest leaves, who has been without longest comes next. What an operator wants
of one is done at once.

Where several processes are one worker, each takes its own requests in that order, and then the others', the newest
first: so it seldom reaches for what another is about to take. One that only waits is taken by nobody else: whoever
moved it has just looked at all there was, and a second look is a whole tenure: a token, both guards, the map.

All that wait for the same places stand in one row (`Line`), in order. Once one of a row finds no place, none behind it
does; so ten thousand that wait are chosen from by looking at the first of each row.
"""

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

import attrs

from moverq.limits import Limits
from moverq.model.ids import MailboxId, RequestId
from moverq.model.request import Priority
from moverq.plan.sharing import WHOLE, Share

NEVER: Final = -math.inf
_RANK = {priority: rank for rank, priority in enumerate(Priority)}

_Turn = tuple[int, bool, bool, float, int, RequestId]
"""What decides who comes first, and who it is."""
_Places = tuple[str, str]
"""What one who starts takes: a place of a source and a target database, or one of the worker's alone."""
_WANTED: _Places = ("", "wanted")
_QUIET: _Places = ("", "quiet")


@attrs.frozen(kw_only=True)
class Candidate:
    """A request as scheduling sees it."""

    request_id: RequestId
    mailbox_id: MailboxId
    source_database: str
    target_database: str
    priority: Priority
    queued_ms: int
    quiet: bool = False
    """Waiting in IncrementalSync, in its soak, or for its next try: nothing to its databases."""
    wanted: bool = False
    """Quiet, and an operator has asked something of it, or its date has come."""
    turn_s: float = NEVER
    """Quiet: when its last turn ended, by the worker's clock."""


@attrs.frozen(kw_only=True)
class Choice:
    """What to start, in order."""

    start: tuple[RequestId, ...]
    waiting: bool
    """Others found no place."""
    dismiss: tuple[RequestId, ...] = ()
    """Quiet ones at work whose turn is over, for others wait for theirs."""


class Line:
    """Those that wait for places. A request is in it once, as it was put last."""

    def __init__(self, share: Share = WHOLE) -> None:
        self._share = share
        self._rows: dict[_Places, list[_Turn]] = {}
        self._of: dict[RequestId, tuple[_Places, _Turn, Candidate]] = {}

    def __repr__(self) -> str:
        return f"<Line of {len(self._of)}>"

    def put(self, candidate: Candidate) -> None:
        """It stands where it belongs. One that only waits, and is another process's, is not in this line."""
        self.take_out(candidate.request_id)
        first = self._share.comes_first(candidate.mailbox_id)
        if candidate.quiet and not candidate.wanted and not first:
            return
        places = (candidate.source_database, candidate.target_database)
        if candidate.quiet:
            places = _WANTED if candidate.wanted else _QUIET
        turn = (
            -_RANK[candidate.priority],
            not candidate.wanted,
            not first,
            candidate.turn_s if candidate.quiet else NEVER,
            candidate.queued_ms if first else -candidate.queued_ms,
            candidate.request_id,
        )
        insort(self._rows.setdefault(places, []), turn)
        self._of[candidate.request_id] = places, turn, candidate

    def take_out(self, request_id: RequestId) -> None:
        """Not in the line: nothing happens."""
        if request_id not in self._of:
            return
        places, turn, _ = self._of.pop(request_id)
        row = self._rows[places]
        del row[bisect_left(row, turn)]
        if not row:
            del self._rows[places]

    def choose(
        self,
        running: Mapping[RequestId, tuple[Candidate, float | None]],
        *,
        server_of: Mapping[str, str],
        limits: Limits,
        now_s: float = 0.0,
    ) -> Choice:
        """The same line and the same running give the same choice; nobody leaves the line by it.

        `running`: those at work, each with when its quiet turn began (`NEVER`: it waits for its next try, and is not
        sent away), None where it does more than wait. `limits`: those of this share already.
        """
        taken = _Taken(server_of=server_of, limits=limits, share=self._share)
        for candidate, quiet_since in running.values():
            taken.add(candidate, quiet=quiet_since is not None)
        start: list[RequestId] = []
        waiting = False
        firsts = [(row[0], 0, places) for places, row in self._rows.items()]
        heapq.heapify(firsts)
        while firsts:
            turn, at, places = firsts[0]
            candidate = self._of[turn[-1]][2]
            if candidate.mailbox_id in taken.mailboxes:
                waiting = True  # for the other request of this mailbox
            elif taken.full(candidate):
                waiting = True
                heapq.heappop(firsts)
                continue
            else:
                start.append(candidate.request_id)
                taken.add(candidate, quiet=candidate.quiet)
            row = self._rows[places]
            if at + 1 < len(row):
                heapq.heapreplace(firsts, (row[at + 1], at + 1, places))
            else:
                heapq.heappop(firsts)
        dismiss = self._dismissed(running, taken, limits, now_s)
        return Choice(start=tuple(start), waiting=waiting, dismiss=dismiss)

    def _dismissed(
        self,
        running: Mapping[RequestId, tuple[Candidate, float | None]],
        taken: "_Taken",
        limits: Limits,
        now_s: float,
    ) -> tuple[RequestId, ...]:
        """Of those that only wait: as many as are too many, and those whose turn is over, for others."""
        by_turn = sorted((since, i) for i, (_, since) in running.items() if since is not None and since > NEVER)
        excess = max(0, taken.quiet - limits.max_quiet_moves_per_mrs)
        over = sum(now_s - since >= limits.quiet_turn_s for since, _ in by_turn)
        wanting = sum(1 for _ in islice(self._kept_waiting(taken), over))
        return tuple(request_id for _, request_id in by_turn[: max(excess, wanting)])

    def _kept_waiting(self, taken: "_Taken") -> Iterator[RequestId]:
        """Quiet ones that are neither chosen nor wait for another request of their mailbox."""
        for places in (_WANTED, _QUIET):
            for turn in self._rows.get(places, ()):
                if self._of[turn[-1]][2].mailbox_id not in taken.mailboxes:
                    yield turn[-1]


class _Taken:
    """The places that are taken while a choice is made. They only become more."""

    def __init__(self, *, server_of: Mapping[str, str], limits: Limits, share: Share) -> None:
        self._server_of = server_of
        self._limits = limits
        self._share = share
        self.mailboxes: set[MailboxId] = set()
        self.quiet = 0
        self._active = 0
        self._from: Counter[str] = Counter()
        self._to: Counter[str] = Counter()
        self._from_server: Counter[str] = Counter()
        self._to_server: Counter[str] = Counter()

    def add(self, r: Candidate, *, quiet: bool) -> None:
        self.mailboxes.add(r.mailbox_id)
        if quiet:
            self.quiet += 1
            return
        self._active += 1
        self._from[r.source_database] += 1
        self._to[r.target_database] += 1
        self._from_server[self._server(r.source_database)] += 1
        self._to_server[self._server(r.target_database)] += 1

    def full(self, r: Candidate) -> bool:
        """Is there no place for it, nor for any other of its row?"""
        limits = self._limits
        if r.wanted:
            return self._active + self.quiet >= limits.max_total_moves_per_mrs + limits.max_quiet_moves_per_mrs
        if r.quiet:
            return self.quiet >= limits.max_quiet_moves_per_mrs
        target_most = self._share.target_part(limits.max_active_moves_per_target_mdb, r.target_database)
        return (
            self._active >= limits.max_total_moves_per_mrs
            or self._from[r.source_database] >= limits.max_active_moves_per_source_mdb
            or self._to[r.target_database] >= target_most
            or self._from_server[self._server(r.source_database)] >= limits.max_active_moves_per_source_server
            or self._to_server[self._server(r.target_database)] >= limits.max_active_moves_per_target_server
        )

    def _server(self, database: str) -> str:
        return self._server_of.get(database, database)
