"""Whose the files of a mailbox are: what is made among them belongs to whom they belong; blocking."""

import os
import stat
from contextlib import suppress

import attrs

from moverq.endpoints.files.acting import give
from moverq.flow.folders import sync_folder


@attrs.frozen
class Owner:
    """Whose the mail is, and who may read it: what is made there is like what is there."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, path: bytes) -> "Owner":
        """Raises `OSError`."""
        found = os.stat(path)
        return cls(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode) & 0o777)

    def private(self) -> "Owner":
        """For mail where there was none: nobody else's to read, as Dovecot and Courier have it, unless a group may
        write here, which then is whose work mail is."""
        return attrs.evolve(self, mode=0o770 if self.mode & 0o020 else 0o700)

    def take(self, descriptor: int) -> None:
        """A file of ours becomes theirs."""
        os.fchmod(descriptor, self.mode & 0o666)
        give(descriptor, self.uid, self.gid)

    def make_folder(self, path: bytes) -> None:
        """The folder is there, and theirs: it gets its name last, so that no crash leaves one that only we can enter.
        Its name survives power loss when its parent was synced."""
        if os.path.isdir(path):
            return
        nameless = path + b".moverq"
        if os.path.islink(nameless):  # see `new_file`
            os.unlink(nameless)
        with suppress(FileExistsError):
            os.mkdir(nameless, self.mode)
        descriptor = os.open(nameless, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, self.mode)
            give(descriptor, self.uid, self.gid)
        finally:
            os.close(descriptor)
        os.rename(nameless, path)

    def make_folders(self, path: bytes) -> None:
        """Likewise with those above it, durable."""
        above = [path]
        while not os.path.isdir(above[-1]):
            above.append(os.path.dirname(above[-1]))
        for folder in reversed(above[:-1]):
            self.make_folder(folder)
            sync_folder(os.path.dirname(folder))

    def make_file(self, path: bytes) -> None:
        """Likewise an empty file."""
        if os.path.exists(path):
            return
        nameless = path + b".moverq"
        descriptor = new_file(nameless)
        self.take(descriptor)
        os.close(descriptor)
        os.rename(nameless, path)


def new_file(path: bytes) -> int:
    """A file that nobody else has, open for writing; what a crash left there is gone. The folder may be a user's, and
    we root: a link that he put there would make any file of the system his.

    Raises `OSError`.
    """
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, how, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, how, 0o600)


def existing_above(path: bytes) -> bytes:
    """The path, or what there is above it."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
