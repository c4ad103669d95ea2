"""The rights of one user, for a while, in one thread of a mover that is root; blocking.

A user may put links into his mail, and change them at any moment: a check of where one leads, before it is followed, is
old when it is used. So nothing is checked: what is done among a user's files is done with his user id, his group and
his groups for the file system (`setfsuid(2)`, as file servers do it), and the kernel says at each step what he may. A
mail server that runs as its user does no other.

These three are a thread's own in Linux. The C library's `setgroups` sets them for all threads of the process, so the
kernel is asked itself.

    whose_path(root) ── whose the mailbox is ──▶ user_of(uid, gid) ──▶ acting_as(user): the work
"""

import ctypes
import errno
import os
import platform
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, NamedTuple

import attrs

LINKS_MAX: Final = 40
"""On the way to one path: the kernel's own bound."""
_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "loongarch64": 159, "ppc64le": 81, "s390x": 206}
"""The number of the call, by machine."""
_libc: Final = ctypes.CDLL(None)


@attrs.frozen
class User:
    """Whose rights."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


ROOT: Final = User(0, 0)


@lru_cache(1024)
def user_of(uid: int, gid: int) -> User:
    """The user with the groups that the system knows him in; one that it does not know has `gid`."""
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return User(uid, gid)
    return User(uid, known.pw_gid, tuple(os.getgrouplist(known.pw_name, known.pw_gid)))


def user_named(name: str) -> User:
    """By the name or the number that the system has for him. Raises `KeyError`: it has none."""
    return user_of(int(name), int(name)) if name.isdecimal() else user_of(pwd.getpwnam(name).pw_uid, 0)


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """This thread has the rights of the user, and no others, if the process is root; else its own, as before.

    Raises `OSError`: PermissionError for what he may not do, in words that say whom.
    """
    if os.geteuid() != 0 or user.uid == 0:
        yield
        return
    groups = os.getgroups()
    _set_groups(user.groups)
    try:
        _libc.setfsgid(user.gid)
        _libc.setfsuid(user.uid)
        if _acting_uid() != user.uid:
            raise PermissionError(errno.EPERM, f"root has not the right here to act as {user}")
        try:
            yield
        except PermissionError as error:
            why = f"{error.strerror} to {user}, whose mailbox it is; let him in, or take away the link that leads there"
            raise PermissionError(error.errno, why, error.filename) from error
    finally:
        _act_as_ourselves(groups)


def _act_as_ourselves(groups: list[int]) -> None:
    _libc.setfsuid(0)
    _libc.setfsgid(os.getegid())
    _set_groups(groups)


def _set_groups(groups: "list[int] | tuple[int, ...]") -> None:
    number = _SETGROUPS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"a mover that is root cannot act as a user on {platform.machine()}")
    if _libc.syscall(number, ctypes.c_size_t(len(groups)), (ctypes.c_uint32 * len(groups))(*groups)):
        raise PermissionError(errno.EPERM, "root has not the right here to change its groups")


def _acting_uid() -> int:
    """An id that there is not changes nothing, and the one that is set is the answer."""
    return int(_libc.setfsuid(-1)) & 0xFFFF_FFFF


def give(descriptor: int, uid: int, gid: int) -> None:
    """A file that we have just made is theirs, if we are root. One that was made for a user is his already, and has the
    group of the mail that it is made among, though he need not be in it.

    Raises `OSError`.
    """
    if os.geteuid() != 0:
        return
    acting = _acting_uid()
    if acting == 0:
        os.fchown(descriptor, uid, gid)
    elif os.fstat(descriptor).st_gid != gid:
        _libc.setfsuid(0)
        try:
            os.fchown(descriptor, -1, gid)
        finally:
            _libc.setfsuid(acting)


# ---- whose a path is


def whose_mail(*places: bytes) -> User:
    """Whose the first of these places is that is somebody else's than root's (`whose_path`). Root made the outermost
    folder at some sites, in the system's spool: then it is whose the mail in it is.

    Raises `OSError`.
    """
    return next((user for user in map(whose_path, places) if user.uid), ROOT)


class _Step(NamedTuple):
    uid: int
    gid: int
    mode: int


def whose_path(path: bytes) -> User:
    """Whose what lies there is, or would be if it were made: who made a link on the way to it, else who has the
    innermost folder that is not root's, else who has the file. Nobody else's mail is reached by a link of his that way,
    of either kind.

    Raises `OSError`.
    """
    steps = [step for step in _steps(path) if step.uid != 0]
    if not steps:
        return ROOT
    links = [step for step in steps if stat.S_ISLNK(step.mode)]
    folders = [step for step in steps if stat.S_ISDIR(step.mode)]
    whose = links[0] if links else (folders or steps)[-1]
    return user_of(whose.uid, whose.gid)


def _steps(path: bytes) -> Iterator[_Step]:
    """Every folder and link on the way, each as it was when it was passed."""
    left = path.split(b"/")[::-1]
    links = 0
    here = os.open(b"/", os.O_PATH | os.O_CLOEXEC)
    try:
        while left:
            name = left.pop()
            if name in (b"", b"."):
                continue
            try:
                inner = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            except (FileNotFoundError, NotADirectoryError):
                return
            found = os.fstat(inner)
            yield _Step(found.st_uid, found.st_gid, found.st_mode)
            if not stat.S_ISLNK(found.st_mode):
                os.close(here)
                here = inner
                continue
            try:
                target = os.readlink(b"", dir_fd=inner)
            finally:
                os.close(inner)
            links += 1
            if links > LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
            left += target.split(b"/")[::-1]
            if target.startswith(b"/"):
                os.close(here)
                here = os.open(b"/", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(here)


__all__ = ["ROOT", "User", "acting_as", "give", "user_named", "whose_mail", "whose_path"]
