"""Many rows a statement: SQLite takes the interpreter's lock up again after each statement, and beside a busy thread
that costs more than the row."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

ROWS_MAX = 64


def values_clauses(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, list[Any]]]:
    """These rows as `VALUES` clauses with what is bound to them: a handful of texts, which SQLite keeps prepared,
    whatever the number of rows."""
    at, size = 0, ROWS_MAX
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2
        yield _clause(len(rows[0]), size), list(chain.from_iterable(rows[at : at + size]))
        at += size


@cache
def _clause(columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"VALUES {','.join([row] * rows)}"
