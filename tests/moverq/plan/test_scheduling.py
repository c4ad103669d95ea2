import random

import attrs
import pytest

from moverq.limits import Limits
from moverq.model.ids import MailboxId, RequestId
from moverq.model.request import Priority
from moverq.plan.scheduling import NEVER, Candidate, Choice, Line
from moverq.plan.sharing import WHOLE, Share
from tests.moverq.plan.plain_choice import plain_choice

LIMITS = Limits(
    max_active_moves_per_source_mdb=2,
    max_active_moves_per_target_mdb=2,
    max_active_moves_per_source_server=3,
    max_active_moves_per_target_server=3,
    max_total_moves_per_mrs=4,
    max_quiet_moves_per_mrs=3,
    quiet_turn_s=30.0,
)
SERVERS = {"S1": "A", "S2": "A", "T1": "B", "T2": "B"}


def request(
    name: str, source: str = "S1", target: str = "T1", *, priority: Priority = Priority.NORMAL, at: int = 0,
    mailbox: str | None = None, quiet: bool = False, wanted: bool = False, turn: float = NEVER,
) -> Candidate:  # fmt: skip
    return Candidate(
        request_id=RequestId(name),
        mailbox_id=MailboxId((mailbox or name).encode()),
        source_database=source,
        target_database=target,
        priority=priority,
        queued_ms=at,
        quiet=quiet,
        wanted=wanted,
        turn_s=turn,
    )


def run(queued: list[Candidate], running: list[Candidate] | None = None, now: float = 0.0) -> Choice:
    """`turn_s` of one that runs is when its turn began."""
    line = Line()
    for candidate in queued:
        line.put(candidate)
    at_work = {r.request_id: (r, r.turn_s if r.quiet else None) for r in running or []}
    return line.choose(at_work, server_of=SERVERS, limits=LIMITS, now_s=now)


def test_priority_goes_before_age_and_age_before_the_rest() -> None:
    queued = [request("young", at=2), request("old", at=1), request("urgent", at=3, priority=Priority.HIGH)]
    assert run(queued).start == ("urgent", "old")


def test_a_full_database_holds_up_only_its_own() -> None:
    queued = [request("a", at=1), request("b", at=2), request("c", at=3), request("d", "S2", "T2", at=4)]
    choice = run(queued)
    assert choice.start == ("a", "b", "d")
    assert choice.waiting


def test_servers_and_the_worker_have_limits_too() -> None:
    queued = [
        request(n, s, t, at=i)
        for i, (n, s, t) in enumerate([("a", "S1", "T1"), ("b", "S1", "T2"), ("c", "S2", "T1"), ("d", "S2", "T2")])
    ]
    choice = run(queued)
    assert choice.start == ("a", "b", "c")
    full = [request(str(n), f"X{n}", f"Y{n}") for n in range(4)]
    assert run([request("e", "P", "Q")], full).start == ()
    assert run([request("e", "P", "Q")], full[1:]).start == ("e",)


def test_one_mailbox_is_moved_by_one_request_at_a_time() -> None:
    choice = run([request("back", mailbox="ada")], [request("forth", "S2", "T2", mailbox="ada", quiet=True)])
    assert choice == Choice(start=(), waiting=True)


def test_a_quiet_move_takes_nothing_from_its_databases() -> None:
    running = [request("a", quiet=True), request("b", quiet=True), request("c")]
    assert run([request("d")], running).start == ("d",)


def soaking(names: str, turn: float = NEVER) -> list[Candidate]:
    return [request(name, f"X{name}", f"Y{name}", quiet=True, turn=turn, at=at) for at, name in enumerate(names)]


def test_moves_that_only_wait_hold_up_none_that_copies() -> None:
    assert run([request("new")], soaking("abcdefgh")).start == ("new",)


def test_moves_that_only_wait_take_turns() -> None:
    """Who has been without longest comes next, and who has had his turn leaves only when another wants it."""
    choice = run(soaking("abcd"))
    assert choice.start == ("a", "b", "c")
    assert choice.waiting
    at_work = soaking("abc", turn=100.0)
    assert run([], at_work, now=1000.0).dismiss == ()
    assert run(soaking("d"), at_work, now=129.0).dismiss == ()
    assert run(soaking("d"), at_work, now=130.0).dismiss == ("a",)
    assert run(soaking("defgh"), at_work, now=130.0).dismiss == ("a", "b", "c")
    back = [*soaking("a", turn=130.0), *soaking("b", turn=131.0), *soaking("d")]
    assert run(back, soaking("c", turn=100.0)).start == ("d", "a")
    assert run([], soaking("abcde", turn=100.0), now=101.0).dismiss == ("a", "b")


def test_who_waits_for_his_next_try_is_not_sent_away() -> None:
    assert run(soaking("d"), soaking("abc"), now=1000.0).dismiss == ()


def test_what_an_operator_wants_of_a_move_that_waits_is_done_at_once() -> None:
    wanted = request("wanted", "S1", "T1", quiet=True, wanted=True, turn=500.0, at=9)
    at_work = [*soaking("abc", turn=100.0), request("x"), request("y")]
    assert run([wanted], at_work).start == ("wanted",)
    assert run([wanted], [*soaking("abc"), *(request(str(n)) for n in range(4))]) == Choice(start=(), waiting=True)


def test_who_is_put_again_stands_where_he_belongs_now() -> None:
    line = Line()
    for name, at in (("a", 1), ("b", 2), ("c", 3)):
        line.put(request(name, at=at))
    line.put(request("a", at=4))
    line.take_out(RequestId("b"))
    line.take_out(RequestId("b"))
    assert line.choose({}, server_of=SERVERS, limits=LIMITS).start == ("c", "a")


@pytest.mark.parametrize("seed", range(200))
def test_rows_choose_as_one_walk_along_all_that_wait(seed: int) -> None:
    """Of any line and any that run, in the course of a day, against the plain way of choosing."""
    rng = random.Random(seed)
    share = rng.choice([WHOLE, Share(0, 2), Share(1, 3)])
    limits = attrs.evolve(
        LIMITS,
        max_active_moves_per_source_mdb=rng.randint(1, 4),
        max_active_moves_per_target_mdb=rng.randint(1, 4),
        max_total_moves_per_mrs=rng.randint(1, 6),
        max_quiet_moves_per_mrs=rng.randint(1, 4),
    )
    line, queued, running = Line(share), dict[RequestId, Candidate](), dict[RequestId, tuple[Candidate, float | None]]()
    for now in range(40):
        for _ in range(rng.randint(0, 6)):
            quiet = rng.random() < 0.5
            one = request(
                str(rng.randrange(40)),
                rng.choice(["S1", "S2", "S3"]),
                rng.choice(["T1", "T2"]),
                priority=rng.choice(list(Priority)),
                at=rng.randrange(5),
                mailbox=str(rng.randrange(30)),
                quiet=quiet,
                wanted=quiet and rng.random() < 0.2,
                turn=rng.choice([NEVER, float(rng.randrange(100))]),
            )
            if one.request_id not in running:
                queued[one.request_id] = one
                line.put(one)
        choice = line.choose(running, server_of=SERVERS, limits=limits, now_s=float(now))
        expected = plain_choice(
            list(queued.values()), running, server_of=SERVERS, limits=limits, share=share, now_s=float(now)
        )
        assert choice == expected
        for request_id in choice.start:
            if rng.random() < 0.8:
                line.take_out(request_id)
                one = queued.pop(request_id)
                running[request_id] = (one, rng.choice([NEVER, now - 40.0]) if one.quiet else None)
        for request_id in [*choice.dismiss, *rng.sample(sorted(running), min(2, len(running)))]:
            running.pop(request_id, None)
