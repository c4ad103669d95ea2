"""Bring the catalogue to the log's head: what every opener, and every commit after a death, begins with.

The caller holds `commit.lock` and has begun an SQLite transaction; it commits. Idempotent, also when it dies itself:
the log is not changed but for its own last frame (rewritten byte for byte) and a torn tail (zeroed).
"""

from collections.abc import Callable

import apsw

from store.catalogue.apply import Applier
from store.catalogue.schema import read_applied, write_applied
from store.errors import Corruption, NoSuchMailbox, StoreBroken
from store.frame import Frame, FrameKind
from store.ids import LogHead
from store.layout import Layout
from store.log.log import Log
from store.records import decode


def require_whole(layout: Layout) -> None:
    """Raises `StoreBroken` where a rebuild from content was taking its place when it was cut short."""
    if layout.rebuilt.exists():
        raise StoreBroken(
            path=str(layout.root),
            why="a rebuild from content was cut short; begin it again: `moverq store rebuild --from-content`",
        )


def catch_up(db: apsw.Connection, log: Log, *, now_ms: int) -> LogHead:
    """The catalogue stands at the log's head, which is certain; returns it.

    Raises:
        Corruption: the log is damaged where it was acknowledged.
    """
    _, applied = read_applied(db)
    if log.is_quiet(applied):
        return applied
    head = replay(db, log, applied, now_ms=now_ms)
    write_applied(db, head)
    return head


def recover(db: apsw.Connection, log: Log, *, now_ms: int) -> LogHead:
    """`catch_up`, and a look at all that lies behind the end: what an opener does, and a commit has no time for.

    After power loss a frame's later blocks may be there without its first one: to a commit that looks like nothing.
    """
    head = catch_up(db, log, now_ms=now_ms)
    log.cut(head)
    return head


def replay(
    db: apsw.Connection,
    log: Log,
    applied: LogHead,
    *,
    now_ms: int,
    seen: LogHead | None = None,
    on_frame: Callable[[Frame], None] | None = None,
) -> LogHead:
    """Apply what lies behind `applied`; then make the log's end certain. `on_frame` is told of each frame.

    Raises:
        Corruption: the log is damaged, or ends before `seen`, up to which all of it was acknowledged; nothing was cut.
    """
    applier = Applier(db)
    last: Frame | None = None
    for frame in log.read_all(applied):
        last = frame
        apply_frame(applier, frame, path=str(log.path(frame.start.generation)))
        if on_frame is not None:
            on_frame(frame)
    end = last.after if last is not None else applied
    # The same place may be named as the end of a sealed generation or as the beginning of the next.
    if seen is not None and end.position < seen.position and end.chain != seen.chain:
        raise Corruption(
            path=str(log.path(end.position.generation)),
            offset=end.position.offset,
            expected=f"the log to go on to {seen.position}, up to where it was acknowledged",
            found="damage: no frame that belongs here",
        )
    return log.settle(applied, last, now_ms=now_ms)


def apply_frame(applier: Applier, frame: Frame, *, path: str) -> None:
    """The transactions of one frame, applied."""
    if frame.kind is not FrameKind.GROUP:
        return
    try:
        for transaction in decode(frame.payload):
            applier.apply(transaction)
    except (ValueError, KeyError, OverflowError, AssertionError, NoSuchMailbox, apsw.ConstraintError) as error:
        raise Corruption(
            path=path, offset=frame.start.offset, expected="records that follow from those before", found=str(error)
        ) from error
