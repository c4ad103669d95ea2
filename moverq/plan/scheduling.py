"""Which queued requests run now.

Priority first, then age; a request whose source or target is at its limit is passed over and keeps its place, so a
full database holds up nobody else, and nobody starves: running moves end, and of those that wait for one database
the first in order is the next. A mailbox is moved by one request at a time.

Where several processes are one worker, each takes its own requests in that order, and then the others', the newest
first: so it seldom reaches for what another is about to take.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from moverq.limits import Limits
from moverq.model.ids import MailboxId, RequestId
from moverq.model.request import Priority
from moverq.plan.sharing import WHOLE, Share

_RANK = {priority: rank for rank, priority in enumerate(Priority)}


@attrs.frozen(kw_only=True)
class Candidate:
    """A request as scheduling sees it. A move that waits in IncrementalSync or soaks is `quiet`: it holds its place
    with the worker but not with its databases."""

    request_id: RequestId
    mailbox_id: MailboxId
    source_database: str
    target_database: str
    priority: Priority
    queued_ms: int
    quiet: bool = False


@attrs.frozen(kw_only=True)
class Choice:
    """What to start, in order, and for each of the others why it waits."""

    start: tuple[RequestId, ...]
    waiting: Mapping[RequestId, str]


def choose(
    queued: Iterable[Candidate],
    running: Sequence[Candidate],
    *,
    server_of: Mapping[str, str],
    limits: Limits,
    share: Share = WHOLE,
) -> Choice:
    """Pure: the same requests give the same choice. `limits`: those of this share already."""
    total = len(running)
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
        if total >= limits.max_total_moves_per_mrs:
            return f"this worker has its {limits.max_total_moves_per_mrs} moves"
        if r.quiet:
            return None
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

    def turn(r: Candidate) -> tuple[int, bool, int, RequestId]:
        first = share.comes_first(r.mailbox_id)
        return -_RANK[r.priority], not first, r.queued_ms if first else -r.queued_ms, r.request_id

    for candidate in sorted(queued, key=turn):
        why = full(candidate)
        if why is not None:
            waiting[candidate.request_id] = why
            continue
        start.append(candidate.request_id)
        mailboxes.add(candidate.mailbox_id)
        total += 1
        if not candidate.quiet:
            count(candidate)
    return Choice(start=tuple(start), waiting=waiting)
