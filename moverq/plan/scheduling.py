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
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from moverq.limits import Limits
from moverq.model.ids import MailboxId, RequestId
from moverq.model.request import Priority
from moverq.plan.sharing import WHOLE, Share

NEVER: Final = -math.inf
_RANK = {priority: rank for rank, priority in enumerate(Priority)}


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
    """Quiet: when its turn began, of one at work, or ended, of one that is not; by the worker's clock. One that waits
    for its next try has none, and is not sent away."""


@attrs.frozen(kw_only=True)
class Choice:
    """What to start, in order, and for each of the others why it waits."""

    start: tuple[RequestId, ...]
    waiting: Mapping[RequestId, str]
    dismiss: tuple[RequestId, ...] = ()
    """Quiet ones at work whose turn is over, for others wait for theirs."""


def choose(
    queued: Sequence[Candidate],
    running: Sequence[Candidate],
    *,
    server_of: Mapping[str, str],
    limits: Limits,
    share: Share = WHOLE,
    now_s: float = 0.0,
) -> Choice:
    """Pure: the same requests give the same choice. `limits`: those of this share already."""
    quiet = sum(r.quiet for r in running)
    active = len(running) - quiet
    mailboxes = {r.mailbox_id for r in running}
    source_mdb: Counter[str] = Counter()
    target_mdb: Counter[str] = Counter()
    source_server: Counter[str] = Counter()
    target_server: Counter[str] = Counter()

    def count(r: Candidate) -> None:
        source_mdb[r.source_database] += 1
        target_mdb[r.target_database] += 1
        source_server[server_of.get(r.source_database, r.source_database)] += 1
        target_server[server_of.get(r.target_database, r.target_database)] += 1

    def full(r: Candidate) -> str | None:
        if r.mailbox_id in mailboxes:
            return "another request for this mailbox is at work"
        if r.wanted:
            most = limits.max_total_moves_per_mrs + limits.max_quiet_moves_per_mrs
            return f"this worker has its {most} moves" if active + quiet >= most else None
        if r.quiet:
            most = limits.max_quiet_moves_per_mrs
            return f"{most} other moves that only wait have their turn" if quiet >= most else None
        if active >= limits.max_total_moves_per_mrs:
            return f"this worker has its {limits.max_total_moves_per_mrs} moves"
        target_most = share.target_part(limits.max_active_moves_per_target_mdb, r.target_database)
        from_server = server_of.get(r.source_database, r.source_database)
        to_server = server_of.get(r.target_database, r.target_database)
        for name, taken, most, role in (
            (r.source_database, source_mdb[r.source_database], limits.max_active_moves_per_source_mdb, "from"),
            (r.target_database, target_mdb[r.target_database], target_most, "to"),
            (f"server {from_server}", source_server[from_server], limits.max_active_moves_per_source_server, "from"),
            (f"server {to_server}", target_server[to_server], limits.max_active_moves_per_target_server, "to"),
        ):
            if taken >= most:
                return (
                    f"{most} moves {role} {name} are at work, its limit"
                    if most
                    else f"other processes of this worker move {role} {name}"
                )
        return None

    for r in running:
        if not r.quiet:
            count(r)
    start: list[RequestId] = []
    waiting: dict[RequestId, str] = {}

    def turn(r: Candidate) -> tuple[int, bool, bool, float, int, RequestId]:
        first = share.comes_first(r.mailbox_id)
        age = r.queued_ms if first else -r.queued_ms
        return -_RANK[r.priority], not r.wanted, not first, r.turn_s if r.quiet else NEVER, age, r.request_id

    for_us = [r for r in queued if not r.quiet or r.wanted or share.comes_first(r.mailbox_id)]
    for candidate in sorted(for_us, key=turn):
        why = full(candidate)
        if why is not None:
            waiting[candidate.request_id] = why
            continue
        start.append(candidate.request_id)
        mailboxes.add(candidate.mailbox_id)
        quiet += candidate.quiet
        active += not candidate.quiet
        if not candidate.quiet:
            count(candidate)
    wanting = sum(r.quiet for r in queued if r.request_id in waiting and r.mailbox_id not in mailboxes)
    return Choice(start=tuple(start), waiting=waiting, dismiss=_dismissed(running, quiet, wanting, limits, now_s))


def _dismissed(
    running: Sequence[Candidate], quiet: int, wanting: int, limits: Limits, now_s: float
) -> tuple[RequestId, ...]:
    """Of those that only wait: as many as are too many, and those whose turn is over, for others."""
    by_turn = sorted((r.turn_s, r.request_id) for r in running if r.quiet and r.turn_s > NEVER)
    excess = max(0, quiet - limits.max_quiet_moves_per_mrs)
    over = sum(now_s - turn_s >= limits.quiet_turn_s for turn_s, _ in by_turn)
    return tuple(request_id for _, request_id in by_turn[: max(excess, min(wanting, over))])
