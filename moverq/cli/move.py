"""`moverq move`: move requests.

A request is named by its id, by the beginning of it, or by the mailbox's address (then the one that is not over, else
the newest). Verbs that change requests take several of them, or a whole batch with `--batch`.
"""

from collections.abc import Awaitable, Callable, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from moverq.cli.common import (
    FAILED,
    ROOT,
    Exit,
    JsonOption,
    RootOption,
    answer,
    pairs,
    say,
    size,
    table,
    to_date_ms,
    to_limit,
    to_seconds,
)
from moverq.words import counted

if TYPE_CHECKING:
    from moverq.errors import MoveError
    from moverq.model.ids import RequestId
    from moverq.model.statistics import MoveStatistics
    from moverq.root import Root

app = App(name="move", help="Move requests: ask for them, look at them, hold them, take them back.")

Names = Annotated[list[str], Parameter(name="NAME", help="Addresses, request ids, or beginnings of ids.")]
Batch = Annotated[str | None, Parameter(name="--batch", help="All requests of this migration batch.")]
Wait = Annotated[
    bool,
    Parameter(
        name="--wait",
        help="Stay until it has come to rest, showing progress. This process moves it, unless a worker does.",
    ),
]
PriorityName = Literal["Lowest", "Lower", "Low", "Normal", "High", "Higher", "Highest", "Emergency"]
StatusName = Literal[
    "Queued",
    "InProgress",
    "AutoSuspended",
    "CompletionInProgress",
    "Completed",
    "CompletedWithWarning",
    "Suspended",
    "Failed",
]
DONE = frozenset({"Completed", "CompletedWithWarning"})
BadItemLimit = Annotated[
    int | None,
    Parameter(
        name="--bad-item-limit",
        converter=to_limit,
        metavar="NUMBER",
        help="Items that may be left behind, each reported: a number (0 if not given) or `unlimited`.",
    ),
]
OtherLimit = Annotated[
    int | None,
    Parameter(
        name="--bad-item-limit",
        converter=to_limit,
        metavar="NUMBER",
        help="Items that may be left behind: a number or `unlimited`; as it was if not given.",
    ),
]
Accept = Annotated[bool, Parameter(help="Confirms a bad item limit above 50.")]


@app.command
async def new(
    addresses: Annotated[list[str] | None, Parameter(name="ADDRESS", help="The mailboxes to move.")] = None,
    /,
    *,
    listed: Annotated[
        Path | None,
        Parameter(
            name="--addresses",
            metavar="FILE",
            allow_leading_hyphen=True,  # `-`
            help="More of them: a file with one address a line, or a CSV with a column EmailAddress; - is stdin.",
        ),
    ] = None,
    to: Annotated[str, Parameter(help="The database they go to, or where a mail system is.")],
    source: Annotated[
        str | None,
        Parameter(
            name="--from",
            help="Where they are now, in the same words. Those in a mail system need not be in the directory yet.",
        ),
    ] = None,
    offline: Annotated[bool, Parameter(help="Lock the mailbox for the whole move.")] = False,
    suspend: Annotated[bool, Parameter(help="Do not begin before `move resume`.")] = False,
    suspend_when_ready: Annotated[
        bool, Parameter(help="Copy and follow, but wait for `move complete` before the cutover.")
    ] = False,
    complete_after: Annotated[
        int | None,
        Parameter(
            converter=to_date_ms, metavar="DATE", help="No cutover before this date: 2026-12-24T03:00, or +2h from now."
        ),
    ] = None,
    bad_item_limit: BadItemLimit = 0,
    accept_large_data_loss: Accept = False,
    batch: Annotated[str | None, Parameter(help="The migration batch it belongs to.")] = None,
    priority: Annotated[PriorityName, Parameter(help="Of two queued requests the higher goes first.")] = "Normal",
    lock_budget: Annotated[int, Parameter(help="How long the mailbox may be locked, in ms; 1000 if not given.")] = 1000,
    soak: Annotated[
        float,
        Parameter(
            converter=to_seconds,
            metavar="DURATION",
            help="How long the way back is kept open: 2h, 0s; 14d if not given.",
        ),
    ] = 14 * 86400.0,
    retention: Annotated[
        float,
        Parameter(
            converter=to_seconds,
            metavar="DURATION",
            help="How long the old mailbox is kept after that; 30d if not given.",
        ),
    ] = 30 * 86400.0,
    key: Annotated[
        str | None,
        Parameter(
            help="Your own name for the request: asking again with it gives the same request. Of several mailboxes "
            "each has a key of its own, made of this and its address."
        ),
    ] = None,
    wait: Wait = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Ask for mailboxes to be moved to another database.

    `--from` and `--to` take the name of a database, or say where a mail system is, which is then registered:

    `imaps://ADMIN@HOST/?password-file=/FILE`: an IMAP server; `imap://` for STARTTLS.

    `maildir:/var/vmail/%d/%n/Maildir`: Maildirs, as Dovecot's `mail_location` has it: `%u` is the address, `%n` and
    `%d` its parts; `:LAYOUT=fs`, `:INBOX=/PATH`, `:CONTROL=/PATH` and `:UTF-8` may follow.

    `mbox:~/mail:INBOX=/var/mail/%n`: mbox files, in the same words.

    A move that is refused registers nothing; one that was taken and then failed keeps what it needs to be resumed.

    In a list, blank lines and lines that begin with # are left out. What is wrong with one address is said, with its
    line, and does not keep the others from being moved.
    """
    from moverq.cli.waiting import share_one_heap
    from moverq.errors import MoveError
    from moverq.model.request import Priority
    from moverq.root import open_root

    wanted = _asked_for(addresses or [], listed)
    has_own_key = key is not None and listed is None and len(wanted) == 1
    if wait:
        share_one_heap()
    async with open_root(root) as opened:
        # Once: where they are wrong, that is not said of every address.
        for place in (source, to):
            if place is not None:
                await opened.database_foreseen(place)
        requests: list[RequestId] = []
        refused: list[tuple[str, MoveError]] = []
        for place, address in wanted:
            try:
                requests.append(
                    await opened.move(
                        address,
                        to=to,
                        source=source,
                        idempotency_key=key if key is None or has_own_key else f"{key}/{address}",
                        offline=offline,
                        suspended=suspend,
                        suspend_when_ready_to_complete=suspend_when_ready,
                        complete_after_ms=complete_after,
                        bad_item_limit=bad_item_limit,
                        accept_large_data_loss=accept_large_data_loss,
                        batch_name=batch,
                        priority=Priority(priority),
                        lock_budget_ms=lock_budget,
                        soak_s=soak,
                        retention_s=retention,
                    )
                )
            except MoveError as error:
                refused.append((place, error))
        _tell_refused(refused, of=len(wanted))
        goal = DONE | {"AutoSuspended", "Suspended"} if suspend_when_ready or suspend else DONE
        await _end(opened, requests, wait=wait, json=json, goal=goal)
    if refused:
        raise Exit(FAILED)


@app.command(name="list")
async def list_(
    *,
    status: Annotated[list[StatusName] | None, Parameter(help="Only those; may be given several times.")] = None,
    batch: Annotated[str | None, Parameter(help="Only those of this migration batch.")] = None,
    source: Annotated[str | None, Parameter(name="--from", help="Only those from this database.")] = None,
    target: Annotated[str | None, Parameter(name="--to", help="Only those to this database.")] = None,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """List move requests, newest first."""
    from moverq.model.request import Status
    from moverq.root import open_root

    async with open_root(root) as opened:
        found = await opened.move_list(
            statuses=None if status is None else [Status(one) for one in status],
            batch_name=batch,
            source_database=source,
            target_database=target,
        )
    rows = [
        [
            one.request_id[:8],
            one.address,
            one.source_database,
            one.target_database,
            _status(one),
            one.sync_stage,
            f"{one.percent_complete} %",
            one.batch_name or "",
        ]
        for one in found
    ]
    answer(
        [one.to_json() for one in found],
        table(rows, head=["REQUEST", "ADDRESS", "FROM", "TO", "STATUS", "STAGE", "DONE", "BATCH"], right=[6]),
        json=json,
    )


@app.command
async def show(
    name: Annotated[str, Parameter(name="NAME")], /, *, root: RootOption = ROOT, json: JsonOption = False
) -> None:
    """Show one request in numbers: Get-MoveRequestStatistics' words, and ours."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        found = await opened.move_show(name)
    shown = {key: value for key, value in found.to_json().items() if value not in ("", False)}
    answer(found.to_json(), pairs(shown), json=json)


@app.command
async def report(
    name: Annotated[str, Parameter(name="NAME")], /, *, root: RootOption = ROOT, json: JsonOption = False
) -> None:
    """Everything that happened in a move: stages, lock attempts, bad items, digests. Kept after completion."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        found = await opened.report(name)
    answer(found.to_json(), found.to_text().rstrip("\n"), json=json)


@app.command
async def explain(
    name: Annotated[str, Parameter(name="NAME")], /, *, root: RootOption = ROOT, json: JsonOption = False
) -> None:
    """Why a move stands where it stands, since when, what a crash now would do, and what comes next."""
    from moverq.model.statistics import iso
    from moverq.root import open_root

    async with open_root(root) as opened:
        statistics = await opened.move_show(name)
        found = await opened.explain(name)
    value = {
        "request_id": statistics.request_id,
        "address": statistics.address,
        "status": statistics.status,
        "sync_stage": statistics.sync_stage,
        "why": found.why,
        "since": iso(found.since_ms),
        "what_a_crash_now_would_do": found.what_a_crash_now_would_do,
        "what_next": found.what_next,
    }
    answer(
        value,
        pairs(
            {
                "move": f"{statistics.address}, {statistics.source_database} to {statistics.target_database} "
                f"({statistics.request_id[:8]})",
                "status": f"{statistics.status} ({statistics.sync_stage}) since {value['since']}",
                "why": found.why,
                "a crash now": found.what_a_crash_now_would_do,
                "next": found.what_next,
            }
        ),
        json=json,
    )


@app.command
async def suspend(
    names: Names | None = None,
    /,
    *,
    batch: Batch = None,
    wait: Wait = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Let moves leave at their next safe point; the users go on working where they are."""
    await _each(
        names, batch, lambda opened, name: opened.suspend(name), wait=wait, root=root, json=json, goal={"Suspended"}
    )


@app.command
async def resume(
    names: Names | None = None,
    /,
    *,
    batch: Batch = None,
    bad_item_limit: OtherLimit = -1,
    accept_large_data_loss: Accept = False,
    wait: Wait = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Let suspended or failed moves go on, with another bad item limit if one is given."""
    await _each(
        names,
        batch,
        lambda opened, name: opened.resume(
            name, bad_item_limit=bad_item_limit, accept_large_data_loss=accept_large_data_loss
        ),
        wait=wait,
        root=root,
        json=json,
        goal=DONE | {"AutoSuspended"},  # where it was asked to wait before its cutover: only there it comes to rest so
    )


@app.command
async def complete(
    names: Names | None = None,
    /,
    *,
    batch: Batch = None,
    wait: Wait = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Go on to the cutover as soon as it is ready, whatever it waits for; of a completed move, end the soak now."""
    await _each(
        names, batch, lambda opened, name: opened.complete(name), wait=wait, root=root, json=json, tell_failed=True
    )


@app.command
async def rollback(
    names: Names | None = None,
    /,
    *,
    batch: Batch = None,
    lock_budget: Annotated[
        int | None, Parameter(help="How long the mailbox may be locked, in ms; as it was if not given.")
    ] = None,
    wait: Wait = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Take completed moves back, with everything that came since. Possible until the soak ends."""
    await _each(
        names,
        batch,
        lambda opened, name: opened.rollback(name, lock_budget_ms=lock_budget),
        wait=wait,
        root=root,
        json=json,
    )


@app.command
async def remove(
    names: Names | None = None,
    /,
    *,
    batch: Batch = None,
    force: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Also in their soak. The old mailboxes stay where they are until `mailbox remove --old`, and there is "
            "no way back.",
        ),
    ] = False,
    wait: Wait = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Give moves up, or clear away what is over. The mailbox at its home is never touched.

    A completed move whose soak is not over is refused: `move complete` ends that, so that its old mailbox is
    soft-deleted and later purged. One that is completed before a worker gives it up stays.
    """
    from moverq.cli.waiting import wait_shown
    from moverq.errors import MoveError
    from moverq.root import open_root

    async with open_root(root) as opened:
        wanted = await _named(opened, names, batch)
        requests: list[RequestId] = []
        refused: list[tuple[str, MoveError]] = []
        for name in wanted:
            try:
                requests.append(await opened.remove(name, force=force))
            except MoveError as error:
                refused.append(("", error))
        _tell_refused(refused, of=len(wanted))
        if wait:
            await wait_shown(opened, requests, quiet=json)
        looks = await opened.look(requests) if wait else []
    kept = {look.standing.request.request_id: look.standing.request.address for look in looks}
    answer(
        [{"request_id": request, "removed": wait and request not in kept} for request in requests],
        [
            f"{request[:8]}  {'removed' if wait else 'will be removed by the next worker'}"
            for request in requests
            if request not in kept
        ],
        json=json,
    )
    for address in kept.values():
        say(f"moverq: the move of {address} was completed before it could be given up, and its request stays")
    if refused or kept:
        raise Exit(FAILED)


@app.command(name="set")
async def set_(
    names: Names | None = None,
    /,
    *,
    batch: Batch = None,
    bad_item_limit: OtherLimit = -1,
    accept_large_data_loss: Accept = False,
    complete_after: Annotated[
        int | None,
        Parameter(converter=to_date_ms, metavar="DATE", help="No cutover before this date: 2026-12-24T03:00, or +2h."),
    ] = -1,
    suspend_when_ready: Annotated[
        bool | None, Parameter(negative="--no-suspend-when-ready", help="Wait for `move complete` before the cutover.")
    ] = None,
    priority: Annotated[PriorityName | None, Parameter(help="Counts until it begins.")] = None,
    lock_budget: Annotated[
        int | None, Parameter(help="How long the mailbox may be locked, in ms; as it was if not given.")
    ] = None,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Change what was asked for."""
    from moverq.model.request import Priority

    await _each(
        names,
        batch,
        lambda opened, name: opened.move_set(
            name,
            bad_item_limit=bad_item_limit,
            accept_large_data_loss=accept_large_data_loss,
            complete_after_ms=complete_after,
            suspend_when_ready_to_complete=suspend_when_ready,
            priority=None if priority is None else Priority(priority),
            lock_budget_ms=lock_budget,
        ),
        wait=False,
        root=root,
        json=json,
    )


async def _each(
    names: list[str] | None,
    batch: str | None,
    verb: "Callable[[Root, str], Awaitable[RequestId]]",
    *,
    wait: bool,
    root: Path,
    json: bool,
    goal: Set[str] = DONE,
    tell_failed: bool = False,
) -> None:
    """The verb, on each request; a refusal of one does not keep the others from it."""
    from moverq.cli.waiting import share_one_heap
    from moverq.errors import MoveError
    from moverq.root import open_root

    if wait:
        share_one_heap()
    async with open_root(root) as opened:
        wanted = await _named(opened, names, batch)
        requests: list[RequestId] = []
        refused: list[tuple[str, MoveError]] = []
        for name in wanted:
            try:
                requests.append(await verb(opened, name))
            except MoveError as error:
                refused.append(("", error))
        _tell_refused(refused, of=len(wanted))
        await _end(opened, requests, wait=wait, json=json, goal=goal, tell_failed=tell_failed)
    if refused:
        raise Exit(FAILED)


def _asked_for(addresses: list[str], listed: Path | None) -> list[tuple[str, str]]:
    """The addresses, each behind where it stands in a list. Raises what reading the list does."""
    from moverq.cli.address_list import read_addresses
    from moverq.errors import RequestRefused

    wanted = [("", address) for address in addresses]
    if listed is not None:
        found = read_addresses(listed)
        if found.unread:
            say(f"of {listed} only the column EmailAddress is read, and not {', '.join(found.unread)}")
        wanted += [(f"{one.place}: ", one.address) for one in found.listed]
    if not wanted:
        raise RequestRefused(why="name the mailboxes to move, or a list of them with --addresses")
    return wanted


def _tell_refused(refused: "list[tuple[str, MoveError]]", *, of: int) -> None:
    """Of several, those that were refused do not keep the others from going on; a single one is simply raised.

    Each comes behind where it stands in a list.
    """
    if refused and of == 1:
        raise refused[0][1]
    for place, error in refused:
        say(f"moverq: {place}{error}")


async def _named(opened: "Root", names: list[str] | None, batch: str | None) -> list[str]:
    """The requests meant. Raises `RequestRefused` where nothing is named, `NotFound` where there is no such batch."""
    from moverq.errors import RequestRefused

    if batch is None:
        if not names:
            raise RequestRefused(why="name a request, by address or id, or a migration batch with --batch")
        return names
    found = [one.request_id for one in await opened.move_list(batch_name=batch)]
    return [*(names or []), *reversed(found)]


async def _end(
    opened: "Root",
    requests: "list[RequestId]",
    *,
    wait: bool,
    json: bool,
    goal: Set[str],
    tell_failed: bool = False,
) -> None:
    """Wait if asked to, and answer: how the requests stand, and what to do next. `goal`: the statuses that are well.
    `tell_failed`: what was asked of a failed one does not make it go on, and so it is told."""
    from moverq.cli.waiting import wait_shown
    from moverq.model.request import Status
    from moverq.root import is_at_rest

    if wait and requests:
        await wait_shown(opened, requests, quiet=json)
    found = [await opened.move_show(request) for request in requests]
    value: Any = [one.to_json() for one in found]
    answer(value[0] if len(value) == 1 else value, [_told(one) for one in found], json=json)
    resting = [
        look.standing for look in await opened.look(requests if tell_failed else ()) if is_at_rest(look.standing)
    ]
    stuck = {standing.request.request_id for standing in resting if standing.status is Status.FAILED}
    bad = [one for one in found if (one.status not in goal if wait else one.request_id in stuck)]
    for one in bad:
        explanation = await opened.explain(one.request_id)
        why = explanation.why.removeprefix("it failed: ").rstrip(".")
        say(f"moverq: the move of {one.address} is {one.status}: {why}.", f"Next: {explanation.what_next}.")
    if bad:
        raise Exit(FAILED)
    if not wait and requests and not json:
        say("`moverq worker` does the rest, where none runs already; `moverq move list` shows how it goes.")


def _status(one: "MoveStatistics") -> str:
    """As Exchange has it, the status stays Queued until a worker has seen the Suspend flag: so both are shown."""
    return f"{one.status} (suspend)" if one.suspend and one.status == "Queued" else one.status


def _told(one: "MoveStatistics") -> str:
    """A request in a line."""
    line = f"{one.request_id[:8]}  {one.address}  {one.source_database} -> {one.target_database}  {_status(one)}"
    if one.lock_ms is not None:
        line += (
            f"  {counted(one.items_transferred, 'item')}, {size(one.bytes_transferred)}, "
            f"locked for {one.lock_ms:.0f} ms (attempt {one.lock_attempts})"
        )
    return line
