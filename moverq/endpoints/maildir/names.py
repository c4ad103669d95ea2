"""What the name of a file in a Maildir says.

    1700000000.M7P3.host,S=512,W=520:2,FSab
    └── base ──────────┘ └ sizes ┘ │   └ letters: flags, and keywords by the folder's `dovecot-keywords`
    └── stem ────────────────────┘ └ separator: `:`, or `;` or `!` where a file system has no `:`

The base tells a message from every other in its folder. Flags change, and sizes too: a server that finds one wrong
drops it. In `new`, and from delivery agents that know no better in `cur`, there is no info part at all.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from moverq.mailfiles.maildir import KEYWORD_LETTERS, LETTERS, PASSED

_OTHER_SEPARATOR: Final = re.compile(rb"[;!]2,[A-Za-z]*(?:,.*)?\Z", re.DOTALL)
_SIZES: Final = re.compile(rb",[SW]=\d+")
_SIZE: Final = re.compile(rb",S=(\d{1,18})(?!\d)")
_MAIL_SIZE: Final = re.compile(rb",W=(\d{1,18})(?!\d)")
_TIME: Final = re.compile(rb"\d{1,15}")
_LETTERS: Final = tuple((letter.encode(), int(flag)) for letter, flag in LETTERS.items())
_KNOWN: Final = frozenset("".join(LETTERS) + KEYWORD_LETTERS + "P")


class Parts(NamedTuple):
    """A file name, taken apart."""

    stem: bytes
    separator: bytes
    """Empty: there is no info part."""
    letters: str
    rest: bytes
    """What follows the letters, from a second comma on."""


def parts(name: bytes) -> Parts:
    """Every name has parts; an info part of another version than 2 says nothing."""
    at = name.find(b":")
    if at < 0:
        match = _OTHER_SEPARATOR.search(name)
        if match is None:
            return Parts(name, b"", "", b"")
        at = match.start()
    info = name[at + 1 :]
    if not info.startswith(b"2,"):
        return Parts(name[:at], name[at : at + 1], "", b"")
    letters, comma, rest = info[2:].partition(b",")
    return Parts(name[:at], name[at : at + 1], letters.decode("ascii", "replace"), comma + rest)


def base(name: bytes) -> bytes:
    """What stays of the name."""
    return _SIZES.sub(b"", parts(name).stem)


def size(name: bytes) -> int | None:
    """As mail if the name says so (`W=`), else on the disk (`S=`)."""
    found = _MAIL_SIZE.search(name) or _SIZE.search(name)
    return int(found[1]) if found else None


def mail_size(name: bytes) -> int | None:
    found = _MAIL_SIZE.search(name)
    return int(found[1]) if found else None


def disk_size(name: bytes) -> int | None:
    found = _SIZE.search(name)
    return int(found[1]) if found else None


def order(base_name: bytes) -> tuple[int, bytes]:
    """Deliveries in the order in which their agents named them."""
    match = _TIME.match(base_name)
    return (int(match[0]) if match else 0), base_name


def said(letters: str, keywords: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
    """Flags and keywords; `keywords` by letter, as the folder's file has them."""
    flags = 0
    found: dict[str, str] = {}
    for letter in letters:
        if letter in LETTERS:
            flags |= int(LETTERS[letter])
        elif letter == "P":
            found.setdefault(PASSED.lower(), PASSED)
        elif letter in keywords:
            found.setdefault(keywords[letter].lower(), keywords[letter])
    return flags, tuple(sorted(found.values()))


def letters_of(flags: int, keyword_letters: str) -> bytes:
    """The info part's letters, sorted as the format wants them."""
    system = b"".join(letter for letter, bit in _LETTERS if flags & bit)
    return bytes(sorted(system + keyword_letters.encode()))


def with_base(name: bytes, new: bytes) -> bytes:
    """The name of another base, with the same sizes, flags and whatever follows."""
    stem = parts(name).stem
    return new + b"".join(_SIZES.findall(stem)) + name[len(stem) :]


def with_letters(name: bytes, flags: int, keyword_letters: str) -> bytes:
    """The name with these flags; letters that mean nothing to us, and what follows them, stay."""
    found = parts(name)
    unknown = "".join(letter for letter in found.letters if letter not in _KNOWN)
    separator = found.separator or b":"
    return found.stem + separator + b"2," + letters_of(flags, keyword_letters + unknown) + found.rest
