from moverq.limits import Limits
from moverq.model.ids import MailboxId, RequestId
from moverq.model.request import Priority
from moverq.plan.scheduling import Candidate, Choice, choose

LIMITS = Limits(
    max_active_moves_per_source_mdb=2,
    max_active_moves_per_target_mdb=2,
    max_active_moves_per_source_server=3,
    max_active_moves_per_target_server=3,
    max_total_moves_per_mrs=4,
)
SERVERS = {"S1": "A", "S2": "A", "T1": "B", "T2": "B"}


def request(
    name: str, source: str = "S1", target: str = "T1", *, priority: Priority = Priority.NORMAL, at: int = 0,
    mailbox: str | None = None, quiet: bool = False,
) -> Candidate:  # fmt: skip
    return Candidate(
        request_id=RequestId(name),
        mailbox_id=MailboxId((mailbox or name).encode()),
        source_database=source,
        target_database=target,
        priority=priority,
        queued_ms=at,
        quiet=quiet,
    )


def run(queued: list[Candidate], running: list[Candidate] | None = None) -> Choice:
    return choose(queued, running or [], server_of=SERVERS, limits=LIMITS)


def test_priority_goes_before_age_and_age_before_the_rest() -> None:
    queued = [request("young", at=2), request("old", at=1), request("urgent", at=3, priority=Priority.HIGH)]
    assert run(queued).start == ("urgent", "old")


def test_a_full_database_holds_up_only_its_own_and_says_so() -> None:
    queued = [request("a", at=1), request("b", at=2), request("c", at=3), request("d", "S2", "T2", at=4)]
    choice = run(queued)
    assert choice.start == ("a", "b", "d")
    assert choice.waiting == {"c": "2 moves from S1 are at work, its limit"}


def test_servers_and_the_worker_have_limits_too() -> None:
    queued = [
        request(n, s, t, at=i)
        for i, (n, s, t) in enumerate([("a", "S1", "T1"), ("b", "S1", "T2"), ("c", "S2", "T1"), ("d", "S2", "T2")])
    ]
    choice = run(queued)
    assert choice.start == ("a", "b", "c")
    assert choice.waiting["d"] == "3 moves from server A are at work, its limit"
    full = [request(str(n), f"X{n}", f"Y{n}") for n in range(4)]
    assert "this worker has its 4 moves" in run([request("e", "P", "Q")], full).waiting["e"]


def test_one_mailbox_is_moved_by_one_request_at_a_time() -> None:
    choice = run([request("back", mailbox="ada")], [request("forth", "S2", "T2", mailbox="ada", quiet=True)])
    assert choice.waiting == {"back": "another request for this mailbox is at work"}


def test_a_quiet_move_takes_nothing_from_its_databases() -> None:
    running = [request("a", quiet=True), request("b", quiet=True), request("c")]
    assert run([request("d")], running).start == ("d",)
