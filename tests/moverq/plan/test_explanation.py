import attrs

from moverq.endpoints.base import Home
from moverq.model.facts import CommitIntent, Facts, LockIntent
from moverq.model.ids import InstanceId, MailboxId, RequestId
from moverq.model.request import MoveRequest, Status, SyncStage
from moverq.model.standing import Counters, Standing, Wishes
from moverq.model.status_detail import StatusDetail, detail_of
from moverq.plan.explanation import explain_standing


def standing(status: Status, stage: SyncStage) -> Standing:
    request = MoveRequest(
        request_id=RequestId("r"),
        idempotency_key="k",
        mailbox_id=MailboxId(b"m"),
        address="ada@example.org",
        source=Home("DB1", InstanceId(b"s")),
        target_database="DB2",
        target_instance=InstanceId(b"t"),
        queued_ms=1,
    )
    return Standing(
        request=request, token=1, status=status, detail=detail_of(status, stage), stage=stage, since_ms=5, updated_ms=5,
        percent=0, message="",
    )  # fmt: skip


def test_every_status_at_every_stage_has_an_answer() -> None:
    for status in Status:
        for stage in SyncStage:
            told = explain_standing(standing(status, stage), Facts())
            assert told.why, (status, stage)
            assert told.what_a_crash_now_would_do
            assert told.what_next
            assert told.since_ms == 5


def test_what_it_waits_for_by_itself_is_told_with_when_it_is_tried_again() -> None:
    waits = attrs.evolve(
        standing(Status.IN_PROGRESS, SyncStage.INCREMENTAL_SYNC),
        detail=StatusDetail.TRANSIENT_FAILURE,
        message="OLD cannot be reached",
        next_try_ms=3_600_000,
    )
    told = explain_standing(waits, Facts())
    assert told.why == "OLD cannot be reached"
    assert "tried again by itself, at 1970-01-01T01:00:00" in told.what_next


def test_a_date_that_it_waits_for_is_told_until_it_is_told_not_to() -> None:
    follows = standing(Status.IN_PROGRESS, SyncStage.INCREMENTAL_SYNC)
    dated = attrs.evolve(follows, request=attrs.evolve(follows.request, complete_after_ms=3_600_000))
    assert "not before 1970-01-01T01:00:00" in explain_standing(dated, Facts()).what_next
    hurried = attrs.evolve(dated, wishes=Wishes(complete=True))
    assert explain_standing(hurried, Facts()).what_next == explain_standing(follows, Facts()).what_next


def test_a_way_back_that_waits_says_for_what() -> None:
    soaks = attrs.evolve(standing(Status.COMPLETED, SyncStage.SOAK), message="OLD cannot be reached")
    assert "OLD" not in explain_standing(soaks, Facts()).why
    waits = attrs.evolve(soaks, counters=Counters(failed_tries=1))
    assert "it waits, since OLD cannot be reached" in explain_standing(waits, Facts()).why


def test_a_doubt_is_told_as_what_it_is() -> None:
    intent = CommitIntent(epoch=1, attempt=1, at_ms=1, lock_at_ms=1)
    at_work = standing(Status.COMPLETION_IN_PROGRESS, SyncStage.COMMIT)
    told = explain_standing(at_work, Facts().plus(LockIntent(attempt=1, at_ms=1), intent))
    assert "nobody unlocks" in told.why
    assert "until a worker has read the directory" in told.what_a_crash_now_would_do


def test_a_locked_source_is_given_back_by_the_next_worker() -> None:
    at_work = standing(Status.COMPLETION_IN_PROGRESS, SyncStage.FINAL_INCREMENTAL_SYNC)
    told = explain_standing(at_work, Facts().plus(LockIntent(attempt=1, at_ms=1)))
    assert "gives the source back" in told.what_a_crash_now_would_do
