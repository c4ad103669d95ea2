"""What Dovecot and Courier keep beside the mail: who has which UID, what a letter means, what is subscribed.

`dovecot-uidlist` is read and never written: it is its server's. `dovecot-keywords` and `subscriptions` are written
under the lock that Dovecot takes for them, a file of the same name with `.lock`.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import attrs

from moverq.endpoints.maildir.folder import Owner
from moverq.endpoints.maildir.names import base
from moverq.flow.folders import sync_folder
from moverq.mailfiles.maildir import KEYWORD_LETTERS, KEYWORDS_FILE

UID_LISTS: Final = (b"dovecot-uidlist", b"courierimapuiddb")
KEYWORDS: Final = KEYWORDS_FILE.encode()
SUBSCRIPTIONS: Final = b"subscriptions"
COURIER_SUBSCRIBED: Final = b"courierimapsubscribed"
LOCK_S: Final = 10.0
"""How long a lock of somebody else's is waited for. Dovecot's are held for milliseconds."""
LOCK_STALE_S: Final = 120.0
"""A lock older than this is of a process that died: Dovecot's own bound."""
OURS: Final = b"moverq\n"
"""What a lock of ours says, so that one whose maker died is told from one of Dovecot's that is being written."""
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
        found = decode_uid_list(_read(os.path.join(folder, name)))
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
    return decode_keywords(_read(os.path.join(folder, KEYWORDS)))


def letters_for(folder: bytes, keywords: Iterable[str], owner: Owner) -> dict[str, str]:
    """The letter of each of these keywords, in the folder's file from now on; those that it has no letter left for, or
    that no line can hold, are not among them. Durable. Raises `OSError`."""

    def found(known: Mapping[str, str]) -> dict[str, str]:
        by_name = {name.lower(): letter for letter, name in known.items()}
        return {word: by_name[word.lower()] for word in wanted if word.lower() in by_name}

    _is_nobodys(os.path.join(folder, KEYWORDS) + b".lock")  # one that a crash left would hold up the mail server
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

    return found(decode_keywords(_replace(os.path.join(folder, KEYWORDS), add, owner)))


# ---- subscriptions


def read_subscriptions(root: bytes, separator: bytes) -> frozenset[bytes]:
    """Names as on the wire. Courier's file counts where there is no other."""
    path = os.path.join(root, SUBSCRIPTIONS)
    if os.path.exists(path):
        return frozenset(decode_subscriptions(_read(path), separator)[1])
    courier = _read(os.path.join(root, COURIER_SUBSCRIBED)).split(b"\n")
    return frozenset(b"INBOX" if line == b"INBOX" else line.removeprefix(b"INBOX.") for line in courier if line)


def decode_subscriptions(data: bytes, separator: bytes) -> tuple[bool, Sequence[bytes]]:
    """(version 2: levels are separated by tabs; the names)."""
    lines = data.split(b"\n")
    if lines[0].startswith(b"V\t2"):
        return True, [separator.join(line.split(b"\t")) for line in lines[1:] if line]
    return False, [line for line in lines if line]


def subscribe(root: bytes, wire: bytes, wanted: bool, *, separator: bytes, owner: Owner) -> None:
    """Durable. Raises `OSError`."""
    path = os.path.join(root, SUBSCRIPTIONS)
    _is_nobodys(path + b".lock")
    if (wire in read_subscriptions(root, separator)) == wanted and os.path.exists(path):
        return

    def change(data: bytes) -> bytes:
        is_second, names = (True, []) if not data else decode_subscriptions(data, separator)
        names = [name for name in names if name != wire] + ([wire] if wanted else [])
        if is_second:
            return b"V\t2\n\n" + b"".join(name.replace(separator, b"\t") + b"\n" for name in names)
        return b"".join(name + b"\n" for name in names)

    _replace(path, change, owner)


# ---- under the lock


def _read(path: bytes) -> bytes:
    """Empty where there is no such file. Raises `OSError` where there is one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _replace(path: bytes, change: Callable[[bytes], bytes], owner: Owner) -> bytes:
    """The file holds what `change` makes of it, which is returned. Raises `OSError`."""
    lock = path + b".lock"
    held = _lock(lock)
    try:
        data = change(_read(path))
        temporary = path + b".moverq"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            owner.take(descriptor)
            os.fsync(descriptor)
        os.rename(temporary, path)
        sync_folder(os.path.dirname(path))
    finally:
        unlock(lock, held)
    return data


def _lock(lock: bytes) -> int:
    """The lock is ours until it is unlinked, or its descriptor closed, which the kernel does for who died."""
    end = time.monotonic() + LOCK_S
    while True:
        try:
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if _is_nobodys(lock):
                continue
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "somebody holds the lock", os.fsdecode(lock)) from None
            time.sleep(0.02)
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, OURS)
        return descriptor


def unlock(lock: bytes, held: int) -> None:
    """The lock is gone, or at least nobody's."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(lock)
    finally:
        os.close(held)


def _is_nobodys(lock: bytes) -> bool:
    """Gone now, also because it was one that its maker left for good: one of ours whose maker is dead, or a very old
    one."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        found = os.fstat(descriptor)
        if time.time() - found.st_mtime < LOCK_STALE_S:
            if os.read(descriptor, len(OURS) + 1) != OURS:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        if os.stat(lock).st_ino == found.st_ino:
            os.unlink(lock)
    except FileNotFoundError:
        pass
    finally:
        os.close(descriptor)
    return True
