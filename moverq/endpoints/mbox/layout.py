"""Which file is which folder; blocking.

    <root>/A              folder A, a file
    <root>/A/B            folder B in A, where A is a directory: a folder that only holds folders
    <root>/A.sbd/B        folder B in A, where A is a file (Thunderbird's way)
    INBOX=<path>          INBOX, else <root>/inbox or <root>/INBOX
    <root> is a file      INBOX is all there is

`.subscriptions` is Dovecot's; names are in modified UTF-7, or UTF-8 where the location says so.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import attrs

from moverq.endpoints.files.links import leads_to, told_apart
from moverq.endpoints.files.owner import Owner, existing_above
from moverq.endpoints.files.subscriptions import read_subscriptions
from moverq.endpoints.mbox.index import signature_of, stamp_of
from moverq.endpoints.mbox.locks import locked
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.endpoints.mirrored.listed import Listed
from moverq.flow.folders import sync_folder

SBD: Final = b".sbd"
SUBSCRIPTIONS: Final = b".subscriptions"
INDEXES: Final = b".imap"
DEPTH_MAX: Final = 32
NAME_BYTES_MAX: Final = 240
_NOT_MAIL: Final = (b".lock", b".msf", b".moverq", b".tmp")
NO_FILE: Final = 1
"""The signature of an INBOX that has no file: some programs remove an empty one."""


@attrs.frozen(kw_only=True)
class Layout:
    """One user's mbox files."""

    root: bytes
    inbox: bytes | None
    utf8: bool

    @property
    def naming(self) -> Naming:
        return Naming(b"", b"/", self.utf8)

    @property
    def is_file(self) -> bool:
        """There is one file, and so one folder."""
        return os.path.isfile(self.root) or (self.root.endswith((b".mbox", b".mbx")) and not os.path.isdir(self.root))

    def path(self, wire: bytes) -> bytes:
        if wire == b"INBOX":
            return self.inbox_path()
        *above, name = wire.split(b"/")
        return os.path.join(self._inside(above), name)

    def inbox_path(self) -> bytes:
        if self.is_file:
            return self.root
        if self.inbox is not None:
            return self.inbox
        large = os.path.join(self.root, b"INBOX")
        return large if os.path.isfile(large) else os.path.join(self.root, b"inbox")

    def _inside(self, levels: list[bytes]) -> bytes:
        """The directory of the folders in this one."""
        path = self.root
        for level in levels:
            inner = os.path.join(path, level)
            path = inner + SBD if os.path.isfile(inner) or os.path.isdir(inner + SBD) else inner
        return path

    def is_sayable(self, wire: bytes) -> bool:
        """Can a folder have this name here, without meaning another one or leading out of the root?"""
        if wire == b"INBOX":
            return True
        if self.is_file or wire.upper() == b"INBOX" or b"\0" in wire:
            return False
        return not any(
            not level or len(level) > NAME_BYTES_MAX or level[:1] in (b".", b"~") or level.endswith((SBD, *_NOT_MAIL))
            for level in wire.split(b"/")
        )

    def exists(self) -> bool:
        """Has the user any mail, or a place for it?"""
        return os.path.exists(self.root) or os.path.exists(self.inbox_path())

    def wires(self) -> Iterator[bytes]:
        """Every folder that can hold messages. INBOX is always there."""
        yield b"INBOX"
        if not self.is_file and os.path.isdir(self.root):
            yield from self._in_directory(self.root, b"", DEPTH_MAX)

    def _in_directory(self, path: bytes, prefix: bytes, depth: int) -> Iterator[bytes]:
        with os.scandir(path) as entries:
            found = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries if e.name[:1] != b"."]
        for name, is_directory in found:
            wire, inner = prefix + name, os.path.join(path, name)
            is_file = stat.S_ISREG(leads_to(inner))
            if is_directory and depth:
                yield from self._in_directory(inner, wire.removesuffix(SBD) + b"/", depth - 1)
            elif is_file and not name.endswith(_NOT_MAIL) and wire.upper() != b"INBOX":
                with suppress(FileNotFoundError):
                    if inner != self.inbox and is_mbox(inner):
                        yield wire

    def listed(self, validity: int) -> list[Listed]:
        """Raises `OSError`."""
        subscribed = self.subscribed()
        found = []
        for wire in self.wires():
            try:
                stamp = stamp_of(self.path(wire))
                object_, modseq = b"%x" % stamp.inode, signature_of(stamp)
            except FileNotFoundError:
                if wire != b"INBOX":
                    continue
                object_, modseq = b"", NO_FILE
            found.append(
                Listed(
                    wire=wire,
                    subscribed=wire in subscribed,
                    mailbox_object=object_,
                    validity=validity,
                    modseq=modseq,
                )
            )
        return told_apart(sorted(found, key=lambda one: one.wire), root=self.root, path=self.path)

    def subscribed(self) -> frozenset[bytes]:
        return frozenset() if self.is_file else read_subscriptions(self.root, b"/", name=SUBSCRIPTIONS)

    # ---- changes

    def make(self, wire: bytes) -> None:
        """An empty file, durable; one that is there stays. Raises `OSError`."""
        self.make_directory(os.path.dirname(self.path(wire)))
        path = self.path(wire)
        if os.path.isdir(path):  # it only held folders until now
            os.rename(path, path + SBD)
        self._owner_of(wire).make_file(path)
        sync_folder(os.path.dirname(path))

    def _owner_of(self, wire: bytes) -> Owner:
        """Whose a new file is: who has the directory, but for a spool, which is nobody's."""
        here = Owner.of(os.path.dirname(self.path(wire)))
        if self.is_file:
            return here.private()
        if wire == b"INBOX" and self.inbox is not None:
            user = Owner.of(existing_above(self.root))
            if user.uid != here.uid:
                return Owner(user.uid, here.gid, 0o660)
        return here

    def make_directory(self, path: bytes) -> None:
        """The directory is there, and those above it, durable. Raises `OSError`."""
        above = [path]
        while not os.path.isdir(above[-1]):
            above.append(os.path.dirname(above[-1]))
        owner = Owner.of(above[-1])
        if not os.path.isdir(self.root) and os.path.commonpath([path, self.root]) == self.root:
            owner = owner.private()
        for folder in reversed(above[:-1]):
            owner.make_folder(folder)
            sync_folder(os.path.dirname(folder))

    def rename(self, old: bytes, new: bytes) -> None:
        """The folder, and those in it, have the name; what was done before a crash is taken up. Raises `OSError`."""
        self.make_directory(os.path.dirname(self.path(new)))
        source, target = self.path(old), self.path(new)
        # Those inside first: while they are left at the old name, the folder is too.
        for ending in (SBD, b""):
            if not os.path.lexists(source + ending):
                continue
            if os.path.lexists(target + ending):
                raise FileExistsError(None, "there is a folder of this name", os.fsdecode(target + ending))
            os.rename(source + ending, target + ending)
            sync_folder(os.path.dirname(target))
            if os.path.dirname(source) != os.path.dirname(target):
                sync_folder(os.path.dirname(source))

    def delete(self, wire: bytes) -> bool:
        """The folder is gone; False: there is something in it. Raises `OSError`."""
        path = self.path(wire)
        if not os.path.isdir(path):
            try:
                with locked(path) as descriptor:
                    if os.fstat(descriptor).st_size:
                        return False
                    os.unlink(path)
            except FileNotFoundError:
                pass
        # Empty directories would be folders still, to a mail program, and in the way of one that gets their name.
        for directory in (path, path + SBD):
            drop_empty(directory)
        if os.path.isdir(os.path.dirname(path)):
            sync_folder(os.path.dirname(path))
        return True


def drop_empty(directory: bytes) -> None:
    """The directory is gone, if there is one and nothing is in it but Dovecot's indexes. Raises `OSError`."""
    try:
        if os.listdir(directory) == [INDEXES]:
            shutil.rmtree(os.path.join(directory, INDEXES))
        os.rmdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def is_mbox(path: bytes) -> bool:
    """Is the file an mbox, or one that is empty as yet? Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 5) in (b"", b"From ")
    finally:
        os.close(descriptor)
