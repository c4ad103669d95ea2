"""A list of addresses in a file, or on stdin: one a line, or a CSV as Exchange's New-MigrationBatch takes it.

    # the first floor                      EmailAddress,DisplayName
    ada@example.org                        ada@example.org,Ada
    bob@example.org                        bob@example.org,"Bob, the other one"

It is a CSV where its first line has a column EmailAddress. Blank lines, and lines that begin with #, are nobody: also
the `#TYPE` that PowerShell's Export-Csv writes first. It is UTF-8, or UTF-16 with a byte order mark, which PowerShell's
`>` writes. What an address means, and whether there is one, is others' to say.
"""

import codecs
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from moverq.errors import NotFound, RequestRefused

STDIN = "-"
COLUMN = "EmailAddress"


@attrs.frozen
class Listed:
    """An address, and where it stands: `addresses.csv, line 7`."""

    address: str
    place: str


@attrs.frozen
class AddressList:
    listed: tuple[Listed, ...]
    unread: tuple[str, ...]
    """The columns of a CSV that say nothing to us."""


def read_addresses(path: Path) -> AddressList:
    """Every address of the list, in its order; `-` is stdin. Blocking.

    Raises:
        NotFound: there is no such file.
        RequestRefused: it is no such list, or there is no address in it.
    """
    name = "stdin" if str(path) == STDIN else str(path)
    try:
        raw = sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(kind="file", name=name) from error
    text = _decoded(raw, name)
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    said = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not said:
        raise RequestRefused(why=f"there is no address in {name}")
    first, head = said[0]
    columns = next(csv.reader([head]))
    wanted = [at for at, column in enumerate(columns) if column.strip().lower() == COLUMN.lower()]
    if not wanted:
        return AddressList(tuple(Listed(line, f"{name}, line {number}") for number, line in said), ())
    body = "\n".join(text.split("\n")[first:])
    found = tuple(
        Listed(address, f"{name}, line {first + line}") for line, address in _cells(body, wanted[0], name, first)
    )
    if not found:
        raise RequestRefused(why=f"there is no address in {name}")
    return AddressList(found, tuple(column for at, column in enumerate(columns) if at != wanted[0]))


def _decoded(raw: bytes, name: str) -> str:
    utf_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return raw.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestRefused(why=f"{name} is no list of addresses: it is neither UTF-8 nor UTF-16") from error


def _cells(body: str, at: int, name: str, before: int) -> Iterator[tuple[int, str]]:
    """The line, counted from the header's, and the text of each row's cell number `at`."""
    rows = csv.reader(io.StringIO(body, newline=""))
    try:
        for row in rows:
            if not any(cell.strip() for cell in row) or row[0].startswith("#"):
                continue
            if len(row) <= at or not row[at].strip():
                raise RequestRefused(why=f"{name}, line {before + rows.line_num}: there is no {COLUMN} in this row")
            yield rows.line_num, row[at].strip()
    except csv.Error as error:
        raise RequestRefused(why=f"{name}, line {before + rows.line_num}: this is no CSV: {error}") from error
