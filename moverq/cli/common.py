"""What the verbs share: options, the shape of answers, and the words of errors.

Answers go to stdout, as text or (`--json`) as JSON; everything else goes to stderr, so that stdout can be read by
programs. An expected error is one sentence on stderr and an exit code (`docs/reference/exit-codes.md`); a traceback
is shown for bugs alone.
"""

import json as jsonlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.token import Token  # type: ignore[attr-defined, unused-ignore]

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
REFUSED = 4
BUG = 70
BROKEN = 74
TEMPORARY = 75
INTERRUPTED = 130
PIPE_CLOSED = 141

ROOT = Path("moverq-root")
"""Where the organisation's folder is, if nobody says: below the working directory."""

RootOption = Annotated[
    Path,
    Parameter(name="--root", env_var="MOVERQ_ROOT", help="The organisation's folder.", show_default=True),
]
JsonOption = Annotated[bool, Parameter(name="--json", negative=(), help="Answer in JSON.")]


class Exit(Exception):
    """The verb's answer is on its way; this is only its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def say(*lines: str) -> None:
    """Beside the answer: notes and warnings, on stderr."""
    for line in lines:
        print(line, file=sys.stderr)


class StatusLine:
    """A line on a terminal's stderr that is written over; nothing where nobody looks. Gone at the end."""

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> "StatusLine":
        return self

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            self._shown = True
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def answer(value: Any, text: str | Iterable[str], *, json: bool) -> None:
    """The answer, on stdout: the value in JSON, or the text."""
    if json:
        is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
        print(jsonlib.dumps(value, indent=2, ensure_ascii=not is_utf8))
    elif isinstance(text, str):
        print(text)
    else:
        for line in text:
            print(line)


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str], right: Iterable[int] = ()) -> list[str]:
    """Lines of columns as wide as they need to be; `right`: columns of numbers."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    numbers = set(right)

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if n in numbers else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(head), *(line(row) for row in rows)]


def pairs(values: Mapping[str, object]) -> list[str]:
    """Lines of `name  value`; what is None is left out."""
    shown = {name: value for name, value in values.items() if value is not None}
    width = max(map(len, shown), default=0)
    return [f"{name.ljust(width)}  {value}" for name, value in shown.items()]


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def error_code(error: BaseException) -> int:
    """The exit code of an expected error; `BUG` for anything else."""
    from moverq.errors import (
        EndpointBroken,
        EndpointBusy,
        EndpointUnavailable,
        MailboxLocked,
        MailboxMoved,
        MoveError,
        NotFound,
        RequestRefused,
    )

    match error:
        case RequestRefused() if isinstance(error.__cause__, NotFound):
            return NOT_FOUND
        case NotFound():
            return NOT_FOUND
        case RequestRefused():
            return REFUSED
        case MailboxLocked() | MailboxMoved() | EndpointBusy() | EndpointUnavailable():
            return TEMPORARY
        case EndpointBroken() | OSError():
            return BROKEN
        case MoveError():
            return FAILED
        case _:
            return BUG


# ---- what options may say

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
SECONDS_MAX = 100 * 365 * 86400.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def seconds(text: str) -> float:
    """A duration: `90`, `90s`, `15m`, `2h`, `14d`. Raises `ValueError`."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no duration: say 90s, 15m, 2h or 14d")
    found = float(match[1]) * _UNITS[match[2]]
    if found > SECONDS_MAX:
        raise ValueError(f"{text!r} is longer than a hundred years")
    return found


def date_ms(text: str) -> int:
    """A date: `2026-12-24T03:00` (local time unless it names a zone), or from now on: `+2h`. Raises `ValueError`."""
    if text.startswith("+"):
        return round((datetime.now().timestamp() + seconds(text[1:])) * 1000)
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise ValueError(f"{text!r} is no date: say 2026-12-24T03:00, with a zone if it is not yours, or +2h") from None


def limit(text: str) -> int | None:
    """A number from 0 on, or `unlimited` (None). Raises `ValueError`."""
    if text.lower() == "unlimited":
        return None
    if not text.isdigit():
        raise ValueError(f"{text!r} is no limit: say a number from 0 on, or unlimited")
    return int(text)


def to_seconds(_: type, tokens: Sequence[Token]) -> float:
    return seconds(tokens[0].value)


def to_mode(_: type, tokens: Sequence[Token]) -> int:
    """Permissions in octal: `660`. Raises `ValueError`."""
    text = tokens[0].value
    if re.fullmatch("[0-7]{3,4}", text) is None:
        raise ValueError(f"{text!r} is no file mode: say 660 or 666")
    return int(text, 8)


def to_date_ms(_: type, tokens: Sequence[Token]) -> int:
    return date_ms(tokens[0].value)


def to_limit(_: type, tokens: Sequence[Token]) -> int | None:
    return limit(tokens[0].value)
