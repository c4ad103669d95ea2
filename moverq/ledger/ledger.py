"""The ledger: every move request of this mover, durable, with the facts a restart goes on from.

    <root>/ledger.sqlite               requests, facts, report entries, operators' wishes
    <root>/moves/<request_id>.sqlite   the move's item map (`item_map`)
    <root>/quarantine/<request_id>/    raw bytes of its bad items

Two kinds of writer. **Operators** (any process) add requests and leave wishes: columns of their own, so that neither
overwrites the other. **An orchestrator** writes everything else, and each of its writes is one transaction
`… WHERE token = :t`: one that was taken over by a higher token changes nothing and gets `StaleToken`. So a fact, what
it does to the request's row and what the report says of it are there together or not at all.

What always holds: a request's token only rises. A fact is one row per kind. Every write is durable on return
(`synchronous=FULL`). What it leaves to others: which fact belongs before which effect (`phases/`).
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw
import attrs
import trio

from moverq.errors import NotFound, RequestRefused, StaleToken
from moverq.flow.backoff import wait_first
from moverq.flow.bell import Bell
from moverq.flow.folders import make_folder, sync_folder
from moverq.flow.group_commit import GroupCommit
from moverq.flow.offload import Offload
from moverq.flow.sqlite import Watcher, bring_up, insert_rows, open_sqlite, sqlite_errors
from moverq.ledger.codec import Codec
from moverq.ledger.item_map import Blank, ItemMap
from moverq.ledger.schema import APPLICATION_ID, LEDGER_STEPS
from moverq.limits import Limits
from moverq.model.facts import Committed, Fact, Facts, PurgeAllowed
from moverq.model.ids import MailboxId, RequestId
from moverq.model.progress import Progress
from moverq.model.report import EntryKind, ReportEntry
from moverq.model.request import MoveRequest, Status, SyncStage
from moverq.model.standing import Change, Counters, Standing, Wishes
from moverq.model.status_detail import StatusDetail, detail_of

T = TypeVar("T")

_COLUMNS = (
    "request, token, status, detail, stage, since_ms, updated_ms, percent, message, next_try_ms, counters, progress, "
    "wish_suspend, wish_retry, wish_complete, wish_finish, wish_remove, superseded_by"
)
WATCH_MS = 50
"""Between two looks for other processes' writes, while somebody waits: a worker takes in no more often."""
_WISHES = ("suspend", "retry", "complete", "finish", "remove")
_IS_DUE = (
    "(wish_remove OR wish_retry OR status IN ('Queued', 'InProgress', 'AutoSuspended', 'CompletionInProgress') "
    "OR (status IN ('Completed', 'CompletedWithWarning') AND (stage != 'SyncFinished' OR next_try_ms NOTNULL)))"
)
"""A worker has something to do for it, now or at `next_try_ms`."""
CHANGES_MAX = 1000
"""Requests in one answer: some 4 MB."""


@attrs.frozen(kw_only=True)
class Changes:
    """What a worker has to learn."""

    due: list[Standing]
    """Requests that it has something to do for, now or at `next_try_ms`, as they stand."""
    over: list[RequestId]
    """Others that have changed, or are gone."""
    upto: int
    """The number of the last change among them."""
    has_more: bool


class Ledger:
    """One connection to the ledger. `open` it; several processes may."""

    def __init__(
        self, root: Path, connection: apsw.Connection, *, make_offload: Callable[[], Offload], now_ms: Callable[[], int]
    ) -> None:
        self.root = root
        self.now_ms = now_ms
        self.limits = Limits()
        self._db = connection
        self._make_offload = make_offload
        self._offload = make_offload()
        self._commit = GroupCommit(connection, self._offload)
        self._codec = Codec()
        self._blank = Blank()
        self._watcher: Watcher | None = None
        self._written = Bell()
        self._asked = Bell()

    def __repr__(self) -> str:
        return f"<Ledger {self.root}>"

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        make_offload: Callable[[], Offload],
        now_ms: Callable[[], int],
        watch: bool = True,
    ) -> "Ledger":
        """The ledger under `root`, made where there is none. `watch`: also wake on other processes' writes.

        Raises:
            EndpointBroken: not a ledger, damaged, of a newer release, or not to be written.
        """
        offload = make_offload()

        def connect() -> apsw.Connection:
            if not root.exists():
                make_folder(root)
            db = open_sqlite(root / "ledger.sqlite", synchronous="FULL")
            bring_up(db, kind="move ledger", application_id=APPLICATION_ID, steps=LEDGER_STEPS)
            return db

        ledger = cls(root, await offload(connect), make_offload=make_offload, now_ms=now_ms)
        if watch:
            # By the connection that writes, which does not take its own commits for somebody else's.
            ledger._watcher = Watcher(ledger._db, ledger._offload, interval_ms=WATCH_MS)
        return ledger

    async def close(self) -> None:
        await self._offload(self._db.close)

    # --- what everybody may read ------------------------------------------------------------------------------

    async def get(self, request_id: RequestId) -> Standing:
        """Raises `NotFound`."""
        return await self._read(lambda: self._standing(request_id))

    async def find(
        self,
        *,
        statuses: Iterable[Status] | None = None,
        batch_name: str | None = None,
        mailbox_id: MailboxId | None = None,
        source_database: str | None = None,
        target_database: str | None = None,
        limit: int = 1000,
    ) -> list[Standing]:
        """Requests by what is asked of them, oldest first."""
        where, bindings = ["1"], list[Any]()
        if statuses is not None:
            wanted = [status.value for status in statuses]
            where.append(f"status IN ({','.join('?' * len(wanted))})")
            bindings += wanted
        for column, value in (
            ("batch_name", batch_name),
            ("mailbox_id", mailbox_id),
            ("source_database", source_database),
            ("target_database", target_database),
        ):
            if value is not None:
                where.append(f"{column} = ?")
                bindings.append(value)
        sql = f"SELECT {_COLUMNS} FROM requests WHERE {' AND '.join(where)} ORDER BY queued_ms, request_id LIMIT ?"
        return await self._read(lambda: [self._of_row(row) for row in self._db.execute(sql, (*bindings, limit))])

    async def beginning_with(self, prefix: str) -> list[RequestId]:
        """The requests whose id begins so."""
        sql = "SELECT request_id FROM requests WHERE request_id >= ? AND request_id < ? ORDER BY request_id"
        found = await self._read(lambda: list(self._db.execute(sql, (prefix, prefix + chr(0x10FFFF)))))
        return [RequestId(request_id) for (request_id,) in found]

    async def changes(self, since: int = 0) -> Changes:
        """What has changed since the change of that number, of what a worker chooses by; 0: all there is.

        At most `CHANGES_MAX` requests at once: more are to be asked for.
        """

        def read() -> Changes:
            ((last,),) = self._db.execute("SELECT number - 1 FROM next_change")
            sql = f"SELECT {_COLUMNS}, {_IS_DUE}, request_id, changed FROM requests WHERE changed > ? "
            rows = list(self._db.execute(sql + "ORDER BY changed LIMIT ?", (since, CHANGES_MAX)))
            gone = self._db.execute("SELECT request_id FROM removals WHERE changed > ?", (since,)) if since else ()
            due, over = list[Standing](), [RequestId(str(request_id)) for (request_id,) in gone]
            for *row, is_due, request_id, _ in rows:
                if is_due:
                    due.append(self._of_row(row))
                else:
                    over.append(RequestId(request_id))
            has_more = len(rows) == CHANGES_MAX
            return Changes(due=due, over=over, upto=rows[-1][-1] if has_more else last, has_more=has_more)

        return await self._read(read)

    async def by_key(self, idempotency_key: str) -> Standing | None:
        sql = f"SELECT {_COLUMNS} FROM requests WHERE idempotency_key = ?"
        found = await self._read(lambda: [self._of_row(row) for row in self._db.execute(sql, (idempotency_key,))])
        return found[0] if found else None

    async def facts(self, request_id: RequestId) -> Facts:
        return await self._read(lambda: self._facts(request_id))

    async def entries(self, request_id: RequestId) -> tuple[ReportEntry, ...]:
        """The report's entries, in the order they were written."""
        sql = "SELECT at_ms, kind, text, data FROM report WHERE request_id = ? ORDER BY entry_id"

        def read() -> tuple[ReportEntry, ...]:
            return tuple(
                ReportEntry(at_ms=at_ms, kind=EntryKind(kind), text=text, data=self._codec.unpack(data, dict[str, Any]))
                for at_ms, kind, text, data in self._db.execute(sql, (request_id,))
            )

        return await self._read(read)

    @property
    def version(self) -> int:
        """Rises with every change seen; take it before reading, then `wait_changed`."""
        return self._written.version + self._elsewhere

    @property
    def asked(self) -> int:
        """Rises with every change seen but for what this process's own orchestrators write; then `wait_asked`."""
        return self._asked.version + self._elsewhere

    @property
    def _elsewhere(self) -> int:
        return self._watcher.version if self._watcher is not None else 0

    async def wait_changed(self, seen: int) -> None:
        """Return when the ledger may have changed since `version` was `seen`."""
        await self._wait(self._written, seen)

    async def wait_asked(self, seen: int) -> None:
        """The same, of `asked`: an operator may have said something, or another process written."""
        await self._wait(self._asked, seen)

    async def _wait(self, own: Bell, seen: int) -> None:
        await trio.lowlevel.checkpoint()
        while own.version + self._elsewhere == seen:
            waits: list[Callable[[], Awaitable[object]]] = [partial(own.wait, own.version)]
            if self._watcher is not None:
                waits.append(partial(self._watcher.wait_changed, self._watcher.version))
            await wait_first(*waits)

    # --- operators --------------------------------------------------------------------------------------------

    async def add(self, request: MoveRequest, *, suspended: bool = False) -> Standing:
        """The request is durable and Queued; one with the same idempotency key is returned as it stands.

        A rollback (`parent`) takes its place in the same transaction in which the parent learns of it, so that the
        parent's soak cannot end with a purge between the two.

        Raises:
            RequestRefused: the parent cannot be taken back any more, or is being taken back already.
        """

        def insert() -> Standing:
            same = list(
                self._db.execute(
                    "SELECT request_id FROM requests WHERE idempotency_key = ?", (request.idempotency_key,)
                )
            )
            if same:
                return self._standing(RequestId(str(same[0][0])))
            if request.parent is not None:
                self._supersede(request.parent, request.request_id)
            now = self.now_ms()
            self._db.execute(
                "INSERT INTO requests (request_id, idempotency_key, mailbox_id, address, source_database, "
                "target_database, batch_name, queued_ms, request, status, detail, stage, since_ms, updated_ms, "
                "counters, wish_suspend) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request.request_id,
                    request.idempotency_key,
                    request.mailbox_id,
                    request.address,
                    request.source.database,
                    request.target_database,
                    request.batch_name,
                    request.queued_ms,
                    self._codec.pack(request),
                    Status.QUEUED.value,
                    StatusDetail.QUEUED.value,
                    SyncStage.QUEUED.value,
                    now,
                    now,
                    self._codec.pack(Counters()),
                    suspended,
                ),
            )
            return self._standing(request.request_id)

        return await self._write(insert, asked=True)

    async def wish(self, request_id: RequestId, decide: Callable[[Standing], Mapping[str, bool]]) -> Standing:
        """Wishes are as `decide` says, given how the request stands at that moment. It may refuse by raising."""

        def write() -> Standing:
            for name, value in decide(self._standing(request_id)).items():
                assert name in _WISHES, name
                self._db.execute(f"UPDATE requests SET wish_{name} = ? WHERE request_id = ?", (value, request_id))
            return self._standing(request_id)

        return await self._write(write, asked=True)

    async def amend(self, request_id: RequestId, decide: Callable[[Standing], MoveRequest]) -> Standing:
        """What Set-MoveRequest may change of the request is changed."""

        def write() -> Standing:
            request = decide(self._standing(request_id))
            self._db.execute(
                "UPDATE requests SET request = ?, target_database = ?, batch_name = ? WHERE request_id = ?",
                (self._codec.pack(request), request.target_database, request.batch_name, request_id),
            )
            return self._standing(request_id)

        return await self._write(write, asked=True)

    # --- the orchestrator -------------------------------------------------------------------------------------

    async def take_over(self, request_id: RequestId, token: int) -> tuple[Standing, Facts]:
        """From now on every lower token's writes are refused; what the last holder of one left.

        Raises `StaleToken` where a higher one was here.
        """

        def write() -> tuple[Standing, Facts]:
            self._db.execute(
                "UPDATE requests SET token = ? WHERE request_id = ? AND token <= ?", (token, request_id, token)
            )
            return self._held(request_id, token), self._facts(request_id)

        return await self._write(write)

    async def write(
        self,
        request_id: RequestId,
        token: int,
        *,
        facts: Sequence[Fact] = (),
        forget: Sequence[type[Fact]] = (),
        entries: Sequence[ReportEntry] = (),
        change: Change | None = None,
    ) -> Standing:
        """An orchestrator's one kind of write: facts, what they do to the row, what the report says of them.

        Durable: all of it.
        Raises:
            StaleToken: a higher token has taken over; nothing changed.
            RequestRefused: `PurgeAllowed` of a move that is being taken back.
        """

        # Packed here: while the transaction lasts, every other process waits.
        packed_facts = [(fact.kind, self._codec.pack(fact)) for fact in facts]
        packed_entries = [(e.at_ms, e.kind.value, e.text, self._codec.pack(dict(e.data))) for e in entries]

        def write() -> Standing:
            now = self.now_ms()
            standing = self._held(request_id, token)
            if any(isinstance(fact, PurgeAllowed) for fact in facts):
                _check_not_superseded(standing)
            if change is not None:
                standing = self._apply(standing, change, now)
            self._db.executemany(
                "DELETE FROM facts WHERE request_id = ? AND kind = ?", [(request_id, kind.kind) for kind in forget]
            )
            insert_rows(
                self._db,
                "INSERT OR REPLACE INTO facts",
                [(request_id, kind, token, now, packed) for kind, packed in packed_facts],
            )
            insert_rows(
                self._db,
                "INSERT INTO report (request_id, at_ms, kind, text, data)",
                [(request_id, *packed) for packed in packed_entries],
            )
            if entries and self._is_trim_due(len(entries)):
                self._trim_report(request_id)
            return standing

        return await self._write(write)

    async def publish(self, token: int, progress: Progress) -> None:
        """Progress is there for other processes. Best effort in content, but still by token."""

        def write() -> None:
            self._db.execute(
                "UPDATE requests SET progress = ? WHERE request_id = ? AND token = ?",
                (self._codec.pack(progress), progress.request_id, token),
            )

        await self._write(write)

    async def disown(self, request_id: RequestId, token: int) -> None:
        """The request is gone, its facts and report with it. A parent that it would have taken back goes on; one that
        it has taken back stays so. Its map goes too. For `remove`, at its end."""

        def write() -> None:
            self._held(request_id, token)
            self._db.execute(
                "UPDATE requests SET superseded_by = NULL, stage = 'Soak', message = '' WHERE superseded_by = ?1 "
                "AND NOT EXISTS (SELECT 1 FROM facts WHERE request_id = ?1 AND kind = ?2)",
                (request_id, Committed.kind),
            )
            self._db.execute("DELETE FROM requests WHERE request_id = ?", (request_id,))

        await self._write(write, asked=True)
        await self.drop_map(request_id)

    def item_map(self, request_id: RequestId) -> ItemMap:
        """The move's map; its file is opened with the first use."""
        return ItemMap(self.map_path(request_id), self._make_offload(), self._codec, self._blank)

    async def drop_map(self, request_id: RequestId) -> None:
        """The map's file is gone. Again: nothing happens."""
        path = self.map_path(request_id)

        def unlink() -> None:
            for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                name.unlink(missing_ok=True)

        await self._effect("drop_map", lambda: self._offload(unlink))

    def map_path(self, request_id: RequestId) -> Path:
        return self.root / "moves" / f"{request_id}.sqlite"

    def lock_path(self, request_id: RequestId) -> Path:
        return self.root / "moves" / f"{request_id}.lock"

    async def quarantine(self, request_id: RequestId, name: str, raw: bytes) -> Path:
        """The raw bytes lie in a file of their own, durable. Again, with the same name: the same file."""
        folder = self.root / "quarantine" / request_id
        path = folder / name

        def write() -> Path:
            make_folder(folder)
            folder.parent.chmod(0o700)
            draft = path.with_suffix(".draft")
            with open(draft, "wb") as file:
                file.write(raw[: self.limits.quarantine_item_bytes_max])
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            sync_folder(folder)
            return path

        return await self._offload(write)

    # --- blocking, inside the offload -------------------------------------------------------------------------

    async def _read(self, question: Callable[[], T]) -> T:
        def ask() -> T:
            with sqlite_errors(self._db.filename):
                return question()

        return await self._offload(ask)

    async def _write(self, statements: Callable[[], T], *, asked: bool = False) -> T:
        answer = await self._effect("write", lambda: self._commit(statements))
        self._written.ring()
        if asked:
            self._asked.ring()
        return answer

    async def _effect(self, _verb: str, effect: Callable[[], Awaitable[T]]) -> T:
        """Every durable effect passes here: the place where tests stop the world."""
        return await effect()

    def _is_trim_due(self, written: int) -> bool:
        """Looked at once in so many entries of all reports: a report may be longer than its bound by some hundredth."""
        every = max(1, self.limits.report_entries_max // 100)
        last = self._db.last_insert_rowid()
        return last // every != (last - written) // every

    def _trim_report(self, request_id: RequestId) -> None:
        """The oldest plain lines go where there are more than the bound; what happened once for all is kept."""
        plain = [kind.value for kind in EntryKind if not kind.is_kept]
        which = f"request_id = ? AND kind IN ({','.join('?' * len(plain))})"
        self._db.execute(
            f"DELETE FROM report WHERE {which} AND entry_id <= "
            f"(SELECT entry_id FROM report WHERE {which} ORDER BY entry_id DESC LIMIT 1 OFFSET ?)",
            (request_id, *plain, request_id, *plain, self.limits.report_entries_max),
        )

    def _standing(self, request_id: RequestId) -> Standing:
        rows = list(self._db.execute(f"SELECT {_COLUMNS} FROM requests WHERE request_id = ?", (request_id,)))
        if not rows:
            raise NotFound(kind="move request", name=request_id)
        return self._of_row(rows[0])

    def _facts(self, request_id: RequestId) -> Facts:
        rows: Iterable[Any] = self._db.execute("SELECT kind, payload FROM facts WHERE request_id = ?", (request_id,))
        found = [self._codec.unpack_fact(kind, payload) for kind, payload in rows]
        return Facts().plus(*(fact for fact in found if fact is not None))

    def _of_row(self, row: Sequence[Any]) -> Standing:
        return Standing(
            request=self._codec.unpack_again(row[0], MoveRequest),
            token=row[1],
            status=Status(row[2]),
            detail=StatusDetail(row[3]),
            stage=SyncStage(row[4]),
            since_ms=row[5],
            updated_ms=row[6],
            percent=row[7],
            message=row[8],
            next_try_ms=row[9],
            counters=self._codec.unpack_again(row[10], Counters),
            progress=None if row[11] is None else self._codec.unpack_again(row[11], Progress),
            wishes=Wishes(
                suspend=bool(row[12]),
                retry=bool(row[13]),
                complete=bool(row[14]),
                finish=bool(row[15]),
                remove=bool(row[16]),
                superseded_by=None if row[17] is None else RequestId(row[17]),
            ),
        )

    def _apply(self, before: Standing, change: Change, now: int) -> Standing:
        """The row is changed; how the request stands with that. `before` was read in this transaction, so nothing else
        has changed it and it need not be read again."""
        status, stage = change.status or before.status, change.stage or before.stage
        counters = attrs.evolve(before.counters, **change.counters)
        moved = status is not before.status
        if moved:
            spent = dict(counters.spent_ms)
            spent[before.status.value] = spent.get(before.status.value, 0) + max(0, now - before.since_ms)
            counters = attrs.evolve(counters, spent_ms=spent)
        explicit = change.status is not None or change.stage is not None
        taken: dict[str, Any] = dict.fromkeys(change.taken_wishes, False)
        after = attrs.evolve(
            before,
            status=status,
            stage=stage,
            detail=change.detail or (detail_of(status, stage) if explicit else before.detail),
            since_ms=now if moved else before.since_ms,
            updated_ms=now,
            percent=before.percent if change.percent is None else change.percent,
            message=before.message if change.message is None else change.message,
            next_try_ms=change.next_try_ms if explicit or change.next_try_ms is not None else before.next_try_ms,
            counters=counters,
            wishes=attrs.evolve(before.wishes, **taken),
        )
        self._db.execute(
            "UPDATE requests SET status = ?, stage = ?, detail = ?, since_ms = ?, updated_ms = ?, percent = ?, "
            "message = ?, next_try_ms = ?, counters = ? WHERE request_id = ? AND token = ?",
            (
                after.status.value,
                after.stage.value,
                after.detail.value,
                after.since_ms,
                after.updated_ms,
                after.percent,
                after.message,
                after.next_try_ms,
                self._codec.pack(after.counters),
                before.request.request_id,
                before.token,
            ),
        )
        for wish in change.taken_wishes:
            if getattr(before.wishes, wish):
                self._db.execute(
                    f"UPDATE requests SET wish_{wish} = 0 WHERE request_id = ?", (before.request.request_id,)
                )
        return after

    def _held(self, request_id: RequestId, token: int) -> Standing:
        """How the request stands, if this token still has it. Inside the transaction, so that it stays so to its end.

        Raises: NotFound, StaleToken.
        """
        standing = self._standing(request_id)
        if standing.token != token:
            raise StaleToken(held=token, seen=standing.token)
        return standing

    def _supersede(self, parent: RequestId, child: RequestId) -> None:
        if list(self._db.execute("SELECT 1 FROM facts WHERE request_id = ? AND kind = 'purge_allowed'", (parent,))):
            raise RequestRefused(
                why="the old mailbox has been soft-deleted already, so the move cannot be taken back; "
                "move the mailbox to its old database with an ordinary new move"
            )
        if not list(self._db.execute("SELECT 1 FROM facts WHERE request_id = ? AND kind = 'cleaned_up'", (parent,))):
            raise RequestRefused(why="this move has not been completed, so there is nothing to take back; remove it")
        standing = self._standing(parent)
        if standing.wishes.superseded_by is not None:
            raise RequestRefused(why=f"request {standing.wishes.superseded_by} is taking this move back already")
        self._db.execute("UPDATE requests SET superseded_by = ? WHERE request_id = ?", (child, parent))


def _check_not_superseded(standing: Standing) -> None:
    by = standing.wishes.superseded_by
    if by is not None:
        raise RequestRefused(why=f"request {by} is taking this move back; its source stays")
