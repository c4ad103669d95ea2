"""Scheduling as one walk along all that wait, in order: slow, and plainly right. What `Line` must choose, too."""

from collections import Counter
from collections.abc import Mapping, Sequence

from moverq.limits import Limits
from moverq.model.ids import RequestId
from moverq.model.request import Priority
from moverq.plan.scheduling import NEVER, Candidate, Choice
from moverq.plan.sharing import Share


def plain_choice(
    queued: Sequence[Candidate],
    running: Mapping[RequestId, tuple[Candidate, float | None]],
    *,
    server_of: Mapping[str, str],
    limits: Limits,
    share: Share,
    now_s: float,
) -> Choice:
    quiet = sum(since is not None for _, since in running.values())
    active = len(running) - quiet
    mailboxes = {r.mailbox_id for r, _ in running.values()}
    used: Counter[tuple[str, str]] = Counter()

    def places(r: Candidate) -> list[tuple[tuple[str, str], int]]:
        source, target = r.source_database, r.target_database
        return [
            (("from", source), limits.max_active_moves_per_source_mdb),
            (("to", target), share.target_part(limits.max_active_moves_per_target_mdb, target)),
            (("from server", server_of.get(source, source)), limits.max_active_moves_per_source_server),
            (("to server", server_of.get(target, target)), limits.max_active_moves_per_target_server),
        ]

    def fits(r: Candidate) -> bool:
        if r.mailbox_id in mailboxes:
            return False
        if r.wanted:
            return active + quiet < limits.max_total_moves_per_mrs + limits.max_quiet_moves_per_mrs
        if r.quiet:
            return quiet < limits.max_quiet_moves_per_mrs
        return active < limits.max_total_moves_per_mrs and all(used[place] < most for place, most in places(r))

    def turn(r: Candidate) -> tuple[object, ...]:
        first = share.comes_first(r.mailbox_id)
        rank = list(Priority).index(r.priority)
        age = r.queued_ms if first else -r.queued_ms
        return -rank, not r.wanted, not first, r.turn_s if r.quiet else NEVER, age, r.request_id

    for r, since in running.values():
        if since is None:
            used.update(place for place, _ in places(r))
    start, waiting = list[RequestId](), list[Candidate]()
    for_us = [r for r in queued if not r.quiet or r.wanted or share.comes_first(r.mailbox_id)]
    for r in sorted(for_us, key=turn):
        if not fits(r):
            waiting.append(r)
            continue
        start.append(r.request_id)
        mailboxes.add(r.mailbox_id)
        quiet += r.quiet
        active += not r.quiet
        if not r.quiet:
            used.update(place for place, _ in places(r))
    wanting = sum(r.quiet for r in waiting if r.mailbox_id not in mailboxes)
    by_turn = sorted((since, i) for i, (_, since) in running.items() if since is not None and since > NEVER)
    excess = max(0, quiet - limits.max_quiet_moves_per_mrs)
    over = sum(now_s - since >= limits.quiet_turn_s for since, _ in by_turn)
    dismiss = tuple(i for _, i in by_turn[: max(excess, min(wanting, over))])
    return Choice(start=tuple(start), waiting=bool(waiting), dismiss=dismiss)
