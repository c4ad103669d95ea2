"""What the oldest Python that is promised does wrongly, and so stands nowhere: tests run on whatever there is."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
POSSESSIVE_GROUP = re.compile(r"\)(?:[+*?]|\{\d*,?\d*\})\+|\(\?>")
"""A group repeated possessively, or an atomic one: before 3.11.5 what it matched may end in the wrong place where the
group has a choice in it (gh-106052). Of single characters, `[^x]*+`, it is right."""


def test_no_group_is_repeated_possessively() -> None:
    assert POSSESSIVE_GROUP.search(r'"((?:[^"\\]++|\\.)*+)"')
    assert not POSSESSIVE_GROUP.search(r'"([^"\\]*+(?:\\.[^"\\]*+)*)"')
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for package in ("moverq", "store")
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if POSSESSIVE_GROUP.search(line)
    ]
    assert not found, "\n".join(found)
