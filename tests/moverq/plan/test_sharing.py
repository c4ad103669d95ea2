"""Processes that are one worker: together they keep its limits, and no request is left without one that may run it."""

import itertools
import random

import attrs
import pytest

from moverq.limits import MIB, Limits
from moverq.model.ids import MailboxId, RequestId
from moverq.model.request import Priority
from moverq.plan.scheduling import Candidate, Choice, Line
from moverq.plan.sharing import WHOLE, Share

TOGETHER = (
    "max_active_moves_per_source_mdb",
    "max_active_moves_per_source_server",
    "max_active_moves_per_target_server",
    "max_total_moves_per_mrs",
    "max_quiet_moves_per_mrs",
    "pages_at_once_max",
    "cutovers_at_once_max",
)
PROCESSES = range(1, Limits().worker_processes_max + 1)


def shares(of: int) -> list[Share]:
    return [Share(number, of) for number in range(of)]


def requests(count: int, *, databases: int = 3) -> list[Candidate]:
    rng = random.Random(count)
    return [
        Candidate(
            request_id=RequestId(f"{n:04}"),
            mailbox_id=MailboxId(rng.randbytes(16)),
            source_database=f"S{rng.randrange(databases)}",
            target_database=f"T{rng.randrange(databases)}",
            priority=Priority.NORMAL,
            queued_ms=n,
        )
        for n in range(count)
    ]


def choose(queued: list[Candidate], *, limits: Limits, share: Share) -> Choice:
    line = Line(share)
    for candidate in queued:
        line.put(candidate)
    return line.choose({}, server_of={}, limits=limits)


@pytest.mark.parametrize("of", PROCESSES)
def test_the_parts_of_all_processes_are_the_limits_of_one_worker(of: int) -> None:
    parts = [share.limits(Limits()) for share in shares(of)]
    for name in TOGETHER:
        assert sum(getattr(part, name) for part in parts) == getattr(Limits(), name)
    assert sum(part.process_bytes_max for part in parts) in range(Limits().process_bytes_max - of, 1 + 256 * MIB)
    for limit, number in itertools.product(range(9), range(50)):
        assert sum(share.target_part(limit, f"DB{number}") for share in shares(of)) == limit


def test_a_limit_of_one_keeps_no_process_from_all_work() -> None:
    one = attrs.evolve(Limits(), **dict.fromkeys(TOGETHER, 1))
    for share in shares(4):
        assert share.limits(one) == attrs.evolve(one, process_bytes_max=Limits().process_bytes_max // 4)


def test_a_small_limit_of_many_targets_is_not_always_the_same_processes() -> None:
    used = {share.number for share in shares(4) for n in range(20) if share.target_part(1, f"DB{n}")}
    assert used == {0, 1, 2, 3}


@pytest.mark.parametrize("of", PROCESSES)
@pytest.mark.parametrize("most", [1, 2, 5, 50])
def test_together_they_start_what_one_would_and_no_target_gets_more(of: int, most: int) -> None:
    limits = attrs.evolve(Limits(), **dict.fromkeys(TOGETHER, 200), max_active_moves_per_target_mdb=most)
    queued = requests(300)
    started: list[Candidate] = []
    for share in shares(of):  # one after the other, as file locks have it: what one has, the next does not get
        left = [one for one in queued if one not in started]
        chosen = choose(left, limits=share.limits(limits), share=share).start
        started += [one for one in left if one.request_id in chosen]
    per_target = {name: sum(one.target_database == name for one in started) for name in ("T0", "T1", "T2")}
    assert per_target == dict.fromkeys(per_target, most)


def test_each_begins_with_its_own_and_goes_on_with_the_newest_of_the_others() -> None:
    queued = requests(40)
    limits = attrs.evolve(Limits(), **dict.fromkeys(TOGETHER, 80), max_active_moves_per_target_mdb=80)
    orders = [choose(queued, limits=share.limits(limits), share=share).start for share in shares(2)]
    own = [[one.request_id for one in queued if share.comes_first(one.mailbox_id)] for share in shares(2)]
    assert sorted(own[0] + own[1]) == [one.request_id for one in queued]
    assert min(len(one) for one in own) > 10
    assert list(orders[0]) == own[0] + own[1][::-1]
    assert list(orders[1]) == own[1] + own[0][::-1]


def test_what_only_waits_is_left_to_the_process_that_begins_with_it_unless_an_operator_wants_it() -> None:
    waiting = [attrs.evolve(one, quiet=True) for one in requests(20)]
    wanted = [attrs.evolve(one, wanted=True) for one in waiting]
    chosen = [choose(waiting, limits=Limits(), share=share) for share in shares(2)]
    assert min(len(choice.start) for choice in chosen) > 3
    assert sorted(chosen[0].start + chosen[1].start) == [one.request_id for one in waiting]
    assert not any(choice.waiting for choice in chosen), "nobody looks again soon for what is another's"
    for share in shares(2):
        assert len(choose(wanted, limits=Limits(), share=share).start) == 20


def test_priority_goes_before_whose_it_is() -> None:
    queued = requests(20)
    share = Share(0, 2)
    at = next(n for n, one in enumerate(queued) if not share.comes_first(one.mailbox_id))
    queued[at] = attrs.evolve(queued[at], priority=Priority.HIGH)
    choice = choose(queued, limits=share.limits(Limits()), share=share)
    assert choice.start[0] == queued[at].request_id


def test_a_worker_of_one_process_has_all() -> None:
    assert WHOLE.limits(Limits()) == Limits()
    assert WHOLE.comes_first(MailboxId(b"x" * 16))
    assert WHOLE.target_part(2, "DB1") == 2
