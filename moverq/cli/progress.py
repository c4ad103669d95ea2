"""How a move is doing, while somebody looks: a live table on a terminal, else a line for each thing that changed.

Goes to stderr, so that a program that reads the answer is not disturbed. The lines are `key=value` with the
glossary's words.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moverq.cli.common import size

if TYPE_CHECKING:
    from moverq.shown import Look

LINE_EVERY_S = 5.0
"""Between two lines of a move whose stage does not change."""
BAR, BAR_WIDTH = "", 16
COLUMNS = ("mailbox", "to", "stage", BAR, "items", "bytes", "rate", "ETA", "backlog", "lock")
BY_NEED = ("mailbox", "stage", "items", BAR, "ETA", "lock", "to", "backlog", "rate", "bytes")
NUMBERS = ("items", "bytes", "rate", "ETA", "backlog")


class Display:
    """Give it looks; it shows what is new in them. Enter it before."""

    def __init__(self, *, quiet: bool = False, live: bool = True) -> None:
        """`live` False: no table, for others write to this terminal too."""
        self._quiet = quiet
        self._may_be_live = live and not quiet
        self._live: Any = None
        self._said: dict[str, tuple[tuple[str, str], float]] = {}

    def __enter__(self) -> "Display":
        if self._may_be_live and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, looks: "Sequence[Look]") -> None:
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(_picture(looks, self._live.console.width))
        for look in looks:
            self._line(look)

    def _line(self, look: "Look") -> None:
        """Where something changed; on a terminal only where a move has come to rest, since the table has the rest."""
        standing = look.standing
        request = standing.request
        present = (standing.status.value, standing.stage.value)
        seen = self._said.get(request.request_id)
        now = time.monotonic()
        rests = present[0] not in ("Queued", "InProgress", "CompletionInProgress")
        if seen is not None and (seen[0] == present and (rests or now - seen[1] < LINE_EVERY_S)):
            return
        self._said[request.request_id] = (present, now)
        words = {
            "request": request.request_id[:8],
            "address": request.address,
            "to": request.target_database,
            "status": standing.status.value,
            "stage": standing.stage.value,
            **numbers(look),
        }
        line = " ".join(f"{name}={value}" for name, value in words.items())
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
        elif rests:
            self._live.console.print(line, markup=False, highlight=False)


def numbers(look: "Look") -> dict[str, str]:
    """What there is to say about how far it is."""
    standing, progress = look.standing, look.progress
    found = {"percent": str(standing.percent)}
    if progress is not None:
        if progress.items_total:
            found["items"] = f"{progress.items}/{progress.items_total}"
            found["bytes"] = f"{progress.bytes}/{progress.bytes_total}"
        if progress.bytes_per_s is not None:
            found["bytes_per_s"] = f"{progress.bytes_per_s:.0f}"
        if progress.eta_s is not None:
            found["eta_s"] = f"{progress.eta_s:.1f}"
        if progress.backlog is not None:
            found["backlog"] = str(progress.backlog)
        if progress.predicted_lock_ms is not None:
            found["predicted_lock_ms"] = f"{progress.predicted_lock_ms:.0f}"
    if standing.counters.lock_ms is not None:
        found["lock_ms"] = f"{standing.counters.lock_ms:.0f}"
    if standing.message and not standing.status.is_final:
        found["message"] = f'"{standing.message}"'
    return found


def _picture(looks: "Sequence[Look]", width: int) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    rows = [_cells(look) for look in looks]
    shown = fitting(rows, width)
    picture = Table(box=None, pad_edge=False)
    for name in shown:
        picture.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for row, look in zip(rows, looks, strict=True):
        bar = ProgressBar(total=100, completed=look.standing.percent, width=BAR_WIDTH)
        picture.add_row(*(bar if name == BAR else row[name] for name in shown))
    return picture


def fitting(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """The columns that a terminal of this width has room for, the most needed first; those two at least that say which
    mailbox, and where it is."""
    left, shown = width, set[str]()
    for name in BY_NEED:
        left -= max([len(name), *(len(row[name]) for row in rows)]) + 2
        if left < -2 and len(shown) >= 2:
            break
        shown.add(name)
    return [name for name in COLUMNS if name in shown]


def _cells(look: "Look") -> dict[str, str]:
    standing, progress = look.standing, look.progress
    lock = standing.counters.lock_ms
    predicted = progress.predicted_lock_ms if progress is not None else None
    status = standing.status.value
    return {
        "mailbox": standing.request.address,
        "to": standing.request.target_database,
        "stage": standing.stage.value if status == "InProgress" else f"{standing.stage.value} ({status})",
        BAR: " " * BAR_WIDTH,
        "items": f"{progress.items:,}/{progress.items_total:,}" if progress else "",
        "bytes": f"{size(progress.bytes)}" if progress else "",
        "rate": f"{size(progress.bytes_per_s)}/s" if progress and progress.bytes_per_s else "",
        "ETA": f"{progress.eta_s:.0f} s" if progress and progress.eta_s is not None else "",
        "backlog": f"{progress.backlog:,}" if progress and progress.backlog is not None else "",
        "lock": f"{lock:.0f} ms" if lock is not None else f"~{predicted:.0f} ms" if predicted is not None else "",
    }
