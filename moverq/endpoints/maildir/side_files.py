"""What Dovecot and Courier keep beside the mail: who has which UID, and what a letter means.

`dovecot-uidlist` is read and never written: it is its server's. `dovecot-keywords` is written under the lock that
Dovecot takes for it.
"""

import os
import re
from collections.abc import Collection, Mapping
from typing import Final

import attrs

from moverq.endpoints.files.dot_lock import is_nobodys, read_file, replace_file
from moverq.endpoints.files.owner import Owner
from moverq.endpoints.maildir.names import base
from moverq.mailfiles.maildir import KEYWORD_LETTERS, KEYWORDS_FILE

UID_LISTS: Final = (b"dovecot-uidlist", b"courierimapuiddb")
KEYWORDS: Final = KEYWORDS_FILE.encode()
_PLAIN_KEYWORD: Final = re.compile(r"[!-~]+")


@attrs.frozen
class UidList:
    """What clients of the folder see."""

    validity: int = 0
    """0: nobody has given UIDs here."""
    uidnext: int = 0
    uids: Mapping[bytes, int] = attrs.field(factory=dict)
    """By base name."""


def decode_uid_list(data: bytes) -> UidList:
    """Dovecot's versions 1 and 3, and Courier's, which is version 1. What is none of them says nothing."""
    lines = data.split(b"\n")
    head = lines[0].split(b" ")
    try:
        if head[0] == b"3":
            words = {word[:1]: word[1:] for word in head[1:]}
            validity, uidnext = int(words[b"V"]), int(words.get(b"N", b"1"))
        elif head[0] == b"1":
            validity, uidnext = int(head[1]), int(head[2])
        else:
            return UidList()
    except (ValueError, IndexError, KeyError):
        return UidList()
    uids: dict[bytes, int] = {}
    taken: set[int] = set()
    for line in lines[1:-1]:  # what follows the last line's end is being written, or nothing
        number, _, rest = line.partition(b" ")
        name = (rest if rest.startswith(b":") else rest[rest.find(b" :") + 1 :])[1:] if head[0] == b"3" else rest
        if number.isdigit() and len(number) <= 10 and name and 0 < int(number) < 1 << 32 and int(number) not in taken:
            taken.add(int(number))
            uids[base(name)] = int(number)
    if not 0 < validity < 1 << 32:
        return UidList()
    if not 0 < uidnext < 1 << 32:
        uidnext = 1
    return UidList(validity, max(uidnext, max(taken, default=0) + 1), uids)


def read_uid_list(folder: bytes) -> UidList:
    for name in UID_LISTS:
        found = decode_uid_list(read_file(os.path.join(folder, name)))
        if found.validity:
            return found
    return UidList()


# ---- keywords


def decode_keywords(data: bytes) -> dict[str, str]:
    """By letter."""
    found = {}
    for line in data.decode(errors="backslashreplace").split("\n"):
        number, _, name = line.partition(" ")
        if number.isdecimal() and len(number) <= 4 and int(number) < len(KEYWORD_LETTERS) and name:
            found[KEYWORD_LETTERS[int(number)]] = name
    return found


def read_keywords(folder: bytes) -> dict[str, str]:
    return decode_keywords(read_file(os.path.join(folder, KEYWORDS)))


def letters_for(folder: bytes, keywords: Collection[str], owner: Owner) -> dict[str, str]:
    """The letter of each of these keywords, in the folder's file from now on; those that it has no letter left for, or
    that no line can hold, are not among them. Durable. Raises `OSError`."""

    def found(known: Mapping[str, str]) -> dict[str, str]:
        by_name = {name.lower(): letter for letter, name in known.items()}
        return {word: by_name[word.lower()] for word in wanted if word.lower() in by_name}

    if keywords:
        owner.make_folders(folder)  # it is not the mail's where there is a CONTROL=
    is_nobodys(os.path.join(folder, KEYWORDS) + b".lock")  # one that a crash left would hold up the mail server
    wanted = {word for word in keywords if _PLAIN_KEYWORD.fullmatch(word)}
    letters = found(read_keywords(folder))
    if len(letters) == len(wanted):
        return letters

    def add(data: bytes) -> bytes:
        known = decode_keywords(data)
        free = [letter for letter in KEYWORD_LETTERS if letter not in known]
        for word in sorted(wanted - found(known).keys()):
            if free and word.lower() not in {name.lower() for name in known.values()}:
                known[free.pop(0)] = word
        lines = sorted((KEYWORD_LETTERS.index(letter), name) for letter, name in known.items())
        return "".join(f"{number} {name}\n" for number, name in lines).encode()

    return found(decode_keywords(replace_file(os.path.join(folder, KEYWORDS), add, owner)))
