"""The verbs of moverq, for the command line and for scripts.

None of them does the moving: they write what is wanted into the ledger, where a worker (`service`) finds it, at once
if it runs and at its next start if not. So every verb returns quickly, may be repeated, and works while no worker is
up. A refusal is `RequestRefused` with a sentence that says what to do instead.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import uuid4

import attrs

from moverq.directory.directory import DatabaseEntry, Directory, Recipient
from moverq.directory.versions import decide_versions
from moverq.endpoints.base import Home
from moverq.endpoints.kinds import place_of
from moverq.errors import NotFound, RequestRefused
from moverq.ledger.ledger import Ledger
from moverq.limits import Limits
from moverq.model.facts import CleanedUp, Committed, PurgeAllowed
from moverq.model.ids import InstanceId, RequestId, new_id
from moverq.model.report import MoveReport
from moverq.model.request import MoveRequest, Priority, Status, SyncStage
from moverq.model.standing import Standing
from moverq.model.statistics import MoveStatistics, from_standing
from moverq.plan.explanation import Explanation, explain_standing

LAST_DATE_MS: Final = 253_402_300_800_000
"""The year 10000: no later date can be shown."""
LASTING_S_MAX: Final = 100 * 366 * 86_400.0


async def new_move(
    ledger: Ledger,
    directory: Directory,
    address: str,
    target_database: str,
    *,
    idempotency_key: str | None = None,
    batch_name: str | None = None,
    priority: Priority = Priority.NORMAL,
    offline: bool = False,
    suspended: bool = False,
    suspend_when_ready_to_complete: bool = False,
    complete_after_ms: int | None = None,
    bad_item_limit: int | None = 0,
    accept_large_data_loss: bool = False,
    lock_budget_ms: int = 1000,
    soak_s: float = 14 * 86400.0,
    retention_s: float = 30 * 86400.0,
) -> Standing:
    """The request is durable and Queued, and the directory shows it on the user. Asking again with the same
    `idempotency_key` gives the same request.

    Durable: request, and the directory's claim.
    Raises:
        RequestRefused: no such mailbox or database, already there, already moving, a limit that needs confirming, a
            value that no move can have, a key that is another request's.
    """
    check_options(
        ledger,
        bad_item_limit=bad_item_limit,
        accept_large_data_loss=accept_large_data_loss,
        complete_after_ms=complete_after_ms,
        lock_budget_ms=lock_budget_ms,
        soak_s=soak_s,
        retention_s=retention_s,
    )
    recipient = await locate(directory, address)
    try:
        target = await directory.database(target_database)
    except NotFound as error:
        raise RequestRefused(why=f"there is no database {target_database} in the directory") from error
    home = recipient.register.home
    source = await directory.database(home.database)
    if (known := await check_way(ledger, recipient, source, target, key=idempotency_key)) is not None:
        return known
    versions = await decide_versions(directory, home.database, target_database)
    request = MoveRequest(
        request_id=RequestId(uuid4().hex),
        idempotency_key=idempotency_key if idempotency_key is not None else uuid4().hex,
        mailbox_id=recipient.mailbox_id,
        address=recipient.address,
        source=home,
        target_database=target_database,
        target_instance=InstanceId(new_id()),
        batch_name=batch_name,
        priority=priority,
        offline=offline or not versions.online,
        suspend_when_ready_to_complete=suspend_when_ready_to_complete,
        complete_after_ms=complete_after_ms,
        bad_item_limit=bad_item_limit,
        lock_budget_ms=lock_budget_ms,
        soak_s=soak_s,
        retention_s=retention_s,
        queued_ms=ledger.now_ms(),
    )
    standing = await ledger.add(request, suspended=suspended)
    return await _claim(ledger, directory, standing, of=request)


def check_options(
    ledger: Ledger,
    *,
    bad_item_limit: int | None = 0,
    accept_large_data_loss: bool = False,
    complete_after_ms: int | None = None,
    lock_budget_ms: int | None = None,
    soak_s: float = 0.0,
    retention_s: float = 0.0,
    **_: object,
) -> None:
    """Of what `new_move` takes, that which says by itself that no move can have it. Raises `RequestRefused`."""
    _check_confirmed(ledger, bad_item_limit, accepted=accept_large_data_loss)
    _check_values(
        ledger.limits, lock_budget_ms=lock_budget_ms, at_ms=complete_after_ms, lasting_s=(soak_s, retention_s)
    )


async def locate(directory: Directory, address: str) -> Recipient:
    """Who has this address. Raises `RequestRefused`."""
    try:
        return await directory.locate(address)
    except NotFound as error:
        raise RequestRefused(why=f"there is no mailbox {address} in the directory") from error


async def check_way(
    ledger: Ledger, recipient: Recipient, source: DatabaseEntry, target: DatabaseEntry, *, key: str | None
) -> Standing | None:
    """The mailbox can be asked to move from one to the other; the request that has been asked for with this key.

    Neither database nor the recipient need be in the directory yet. Raises `RequestRefused`.
    """
    if key is not None and (known := await ledger.by_key(key)) is not None:
        if (known.request.mailbox_id, known.request.target_database) != (recipient.mailbox_id, target.name):
            raise RequestRefused(
                why=f"the key {key!r} is that of another request: {known.request.address} to "
                f"{known.request.target_database}"
            )
        return known
    if source.name == target.name:
        raise RequestRefused(why=f"{recipient.address} is in {target.name} already")
    if place_of(source.path) == place_of(target.path):
        raise RequestRefused(
            why=f"{source.name} and {target.name} are two names of one place: {recipient.address} is there"
        )
    if recipient.active_move is not None:
        raise RequestRefused(why=await _already_moving(ledger, recipient.address, recipient.active_move))
    return None


async def rollback(
    ledger: Ledger,
    directory: Directory,
    request_id: RequestId,
    *,
    idempotency_key: str | None = None,
    lock_budget_ms: int | None = None,
) -> Standing:
    """A new request takes this move back: roles swapped, the retired source becomes the target, and what has come
    since is carried with it. Only until the old mailbox is soft-deleted.

    Raises:
        RequestRefused: not completed, taken back already, or the old mailbox is gone.
    """
    parent = await ledger.get(request_id)
    facts = await ledger.facts(request_id)
    key = idempotency_key if idempotency_key is not None else f"rollback of {request_id}"
    if (known := await ledger.by_key(key)) is not None:
        if known.request.parent != request_id:
            raise RequestRefused(why=f"the key {key!r} is that of another request, of {known.request.address}")
        return known
    if lock_budget_ms is not None:
        _check_values(ledger.limits, lock_budget_ms=lock_budget_ms)
    if not facts.has(Committed) or not facts.has(CleanedUp):
        raise RequestRefused(
            why=f"the move of {parent.request.address} has not been completed, so there is nothing to take back; "
            f"`moverq move remove` gives it up"
        )
    if facts.has(PurgeAllowed):
        raise RequestRefused(
            why=f"the old mailbox of {parent.request.address} has been soft-deleted; "
            f"move it to {parent.request.source.database} with an ordinary new move. Where that is a mail system the "
            f"old mailbox is still there: empty it first"
        )
    old = parent.request
    request = attrs.evolve(
        old,
        request_id=RequestId(uuid4().hex),
        idempotency_key=key,
        source=Home(old.target_database, old.target_instance),
        target_database=old.source.database,
        target_instance=old.source.instance,
        parent=old.request_id,
        suspend_when_ready_to_complete=False,
        complete_after_ms=None,
        lock_budget_ms=old.lock_budget_ms if lock_budget_ms is None else lock_budget_ms,
        queued_ms=ledger.now_ms(),
    )
    # The parent's claim in the directory is handed over by the rollback's own job, once the parent has stopped.
    return await ledger.add(request)


async def list_moves(
    ledger: Ledger,
    *,
    statuses: Iterable[Status] | None = None,
    batch_name: str | None = None,
    source_database: str | None = None,
    target_database: str | None = None,
    limit: int = 1000,
) -> list[MoveStatistics]:
    """Requests in numbers, oldest first."""
    found = await ledger.find(
        statuses=statuses,
        batch_name=batch_name,
        source_database=source_database,
        target_database=target_database,
        limit=limit,
    )
    return [from_standing(standing, now_ms=ledger.now_ms()) for standing in found]


async def get(ledger: Ledger, request_id: RequestId) -> MoveStatistics:
    """Raises `NotFound`."""
    return from_standing(await ledger.get(request_id), now_ms=ledger.now_ms())


async def find_request(ledger: Ledger, directory: Directory, name: str) -> RequestId:
    """The request that an operator means by an address, a request id, or the beginning of one.

    Of several for one address, the one that is not over; else the newest.

    Raises:
        NotFound: no such request.
        RequestRefused: the beginning fits several, or is empty.
    """
    if not name.strip():  # of a single request that would be the beginning: a script's variable without a value
        raise RequestRefused(why="name a request, by address, id, or the beginning of one: '' names none")
    if "@" in name:
        recipient = await directory.locate(name)
        mine = await ledger.find(mailbox_id=recipient.mailbox_id)
        if not mine:
            raise NotFound(kind="move request for", name=name)
        open_ = [standing for standing in mine if standing.stage is not SyncStage.SYNC_FINISHED]
        return (open_ or mine)[-1].request.request_id
    fitting = await ledger.beginning_with(name) if name.isascii() else []
    if not fitting:
        raise NotFound(kind="move request", name=name)
    if len(fitting) > 1:
        raise RequestRefused(why=f"{name} is the beginning of {len(fitting)} requests; give more of it")
    return fitting[0]


async def report(ledger: Ledger, request_id: RequestId) -> MoveReport:
    """Everything about one request. Raises `NotFound`."""
    return MoveReport(statistics=await get(ledger, request_id), entries=await ledger.entries(request_id))


async def explain(ledger: Ledger, request_id: RequestId) -> Explanation:
    """Why it stands where it stands. Always an answer. Raises `NotFound`."""
    return explain_standing(await ledger.get(request_id), await ledger.facts(request_id))


async def suspend(ledger: Ledger, request_id: RequestId) -> Standing:
    """The job leaves at its next safe point; the user's mailbox is as usable as before.

    Raises:
        RequestRefused: the cutover has begun, or the move is over.
    """

    def decide_wish(standing: Standing) -> dict[str, bool]:
        if standing.status.is_final:
            raise RequestRefused(why=f"the move of {standing.request.address} is {standing.status.value} already")
        if standing.status is Status.COMPLETION_IN_PROGRESS:
            raise RequestRefused(
                why=f"the move of {standing.request.address} is being completed; that takes moments and cannot be "
                f"suspended"
            )
        return {"suspend": True, "retry": False}

    return await ledger.wish(request_id, decide_wish)


async def resume(
    ledger: Ledger, request_id: RequestId, *, bad_item_limit: int | None = -1, accept_large_data_loss: bool = False
) -> Standing:
    """A suspended or failed move goes on, with another bad item limit if one is given (None: unlimited).

    Raises:
        RequestRefused: it is over, or the limit needs confirming.
    """

    def decide_wish(standing: Standing) -> dict[str, bool]:
        if standing.status.is_final:
            raise RequestRefused(why=f"the move of {standing.request.address} is {standing.status.value} already")
        if standing.status is Status.AUTO_SUSPENDED:
            return {"suspend": False, "complete": True}
        return {"suspend": False, "retry": True}

    def with_limit(standing: Standing) -> MoveRequest:
        decide_wish(standing)  # one that is over keeps what it had
        return attrs.evolve(standing.request, bad_item_limit=bad_item_limit)

    if bad_item_limit != -1:
        _check_confirmed(ledger, bad_item_limit, accepted=accept_large_data_loss)
        await ledger.amend(request_id, with_limit)
    return await ledger.wish(request_id, decide_wish)


async def complete(ledger: Ledger, request_id: RequestId) -> Standing:
    """The move goes on to its cutover as soon as it is ready, whatever it was told to wait for. Of a completed one,
    the soak ends now and the old mailbox is soft-deleted."""

    def decide_wish(standing: Standing) -> dict[str, bool]:
        if standing.status.is_final:
            if standing.wishes.superseded_by is not None:
                raise RequestRefused(why=f"request {standing.wishes.superseded_by} is taking this move back")
            return {"finish": True}
        retry = standing.wishes.retry or standing.status is Status.SUSPENDED  # one that was resumed is still
        return {"complete": True, "suspend": False, "retry": retry}

    return await ledger.wish(request_id, decide_wish)


async def set_move(
    ledger: Ledger,
    request_id: RequestId,
    *,
    bad_item_limit: int | None = -1,
    complete_after_ms: int | None = -1,
    suspend_when_ready_to_complete: bool | None = None,
    priority: Priority | None = None,
    batch_name: str | None = None,
    lock_budget_ms: int | None = None,
    accept_large_data_loss: bool = False,
) -> Standing:
    """What may be changed of a request that runs already; -1 and None (where None means nothing) leave it.

    Raises `RequestRefused`: a limit that needs confirming, a value that no move can have.
    """
    _check_values(
        ledger.limits, lock_budget_ms=lock_budget_ms, at_ms=None if complete_after_ms == -1 else complete_after_ms
    )

    def change(standing: Standing) -> MoveRequest:
        request = standing.request
        if bad_item_limit != -1:
            _check_confirmed(ledger, bad_item_limit, accepted=accept_large_data_loss)
            request = attrs.evolve(request, bad_item_limit=bad_item_limit)
        if complete_after_ms != -1:
            request = attrs.evolve(request, complete_after_ms=complete_after_ms)
        if suspend_when_ready_to_complete is not None:
            request = attrs.evolve(request, suspend_when_ready_to_complete=suspend_when_ready_to_complete)
        if priority is not None:
            request = attrs.evolve(request, priority=priority)
        if lock_budget_ms is not None:
            request = attrs.evolve(request, lock_budget_ms=lock_budget_ms)
        if batch_name is not None:
            request = attrs.evolve(request, batch_name=batch_name)
        return request

    return await ledger.amend(request_id, change)


async def remove(ledger: Ledger, request_id: RequestId, *, force: bool = False) -> Standing:
    """A worker gives the move up at its next safe point: the source is its users' again and the target gone. One that
    is committed before that is completed, and stays. Of one that is over only the request's record goes. The mailbox
    at its home is never touched.

    `force`: also while it soaks; then its old mailbox stays, and nobody looks after it any more.

    Raises:
        RequestRefused: another request is taking this one back, or it soaks.
    """

    def decide_wish(standing: Standing) -> dict[str, bool]:
        if standing.wishes.superseded_by is not None and standing.stage is not SyncStage.SYNC_FINISHED:
            raise RequestRefused(
                why=f"request {standing.wishes.superseded_by} is taking this move back; remove that one"
            )
        if standing.stage is SyncStage.SOAK and not force:
            request = standing.request
            raise RequestRefused(
                why=f"the move of {request.address} is completed and its soak is not over: end that with `moverq move "
                f"complete {request_id}`, and its old mailbox is soft-deleted, and purged after its retention. With "
                f"--force the request is removed now, and the old mailbox stays in {request.source.database} "
                f"until `moverq mailbox remove --old`, and nothing takes the move back"
            )
        return {"remove": True}

    return await ledger.wish(request_id, decide_wish)


def _check_values(
    limits: Limits, *, lock_budget_ms: int | None = None, at_ms: int | None = None, lasting_s: Sequence[float] = ()
) -> None:
    """Raises `RequestRefused` for what a move cannot wait for, or wait so long."""
    most_ms = limits.lock_budget_ms_max
    if lock_budget_ms is not None and not 0 < lock_budget_ms <= most_ms:
        raise RequestRefused(
            why=f"a lock budget is from 1 to {most_ms} ms; a mailbox that may be locked for longer is "
            f"moved with --offline"
        )
    if at_ms is not None and not 0 < at_ms < LAST_DATE_MS:
        raise RequestRefused(why="a cutover has a date between 1970 and the year 10000")
    if any(not 0 <= seconds <= LASTING_S_MAX for seconds in lasting_s):
        raise RequestRefused(why="soak and retention last for a hundred years at most")


def _check_confirmed(ledger: Ledger, bad_item_limit: int | None, *, accepted: bool) -> None:
    """Raises `RequestRefused` for a limit so large that it must be confirmed, and was not."""
    most = ledger.limits.bad_item_limit_unconfirmed_max
    if (bad_item_limit is None or bad_item_limit > most) and not accepted:
        raise RequestRefused(
            why=f"a bad item limit above {most} may lose much; confirm it with --accept-large-data-loss"
        )


async def _claim(ledger: Ledger, directory: Directory, standing: Standing, *, of: MoveRequest) -> Standing:
    """The directory shows the request. Lost against another one, or against the mailbox's removal, at the same
    moment: the record goes again."""
    request = standing.request
    if request.request_id != of.request_id:
        return standing
    try:
        await directory.claim_move(request.mailbox_id, request.request_id)
    except (RequestRefused, NotFound):
        await ledger.disown(request.request_id, standing.token)
        raise
    return standing


async def _already_moving(ledger: Ledger, address: str, active: RequestId) -> str:
    try:
        other = await ledger.get(active)
    except NotFound:
        return f"{address} is being moved by request {active}, of another ledger"
    if other.status.is_final:
        return (
            f"{address} was moved by request {active} and its soak is not over; "
            f"end it with `moverq move complete {active}`, or take it back with `moverq move rollback {active}`"
        )
    return f"{address} is being moved by request {active} ({other.status.value}); see `moverq move explain {active}`"
