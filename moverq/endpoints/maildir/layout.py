"""Where the folders of a Maildir lie, and what they are called there; blocking.

    Maildir++   <root>/.A.B/cur    folder A.B, beside its parent        (Dovecot's default)
    fs          <root>/A/B/cur     folder A/B, inside its parent        (LAYOUT=fs)
    both        <root>/cur         INBOX, or what INBOX= says

Names are in modified UTF-7, or in UTF-8 where the location says so.
"""

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import attrs

from moverq.endpoints.files.acting import ROOT, User, acting_as, whose_mail, whose_path
from moverq.endpoints.files.links import leads_to, told_apart
from moverq.endpoints.files.owner import Owner, existing_above
from moverq.endpoints.files.subscriptions import read_subscriptions
from moverq.endpoints.maildir import folder
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.endpoints.mirrored.listed import Listed
from moverq.flow.folders import sync_folder
from moverq.mailfiles.maildir import SIDE_FILES

T = TypeVar("T")
TRASHED: Final = b"..MOVERQ-TRASHED."
"""A folder on its way out. No mail program takes a name that begins so for a folder's."""
DEPTH_MAX: Final = 32
_RESERVED: Final = frozenset({b"", b".", b"..", b"cur", b"new", b"tmp"})


@attrs.frozen(kw_only=True)
class Layout:
    """One user's Maildir."""

    root: bytes
    inbox: bytes
    nested: bool
    """LAYOUT=fs."""
    utf8: bool
    control: bytes
    """Where `subscriptions` is, and, if it is not the root, what Dovecot keeps of each folder."""
    owner: User | None = None
    """Whose it is, where that is said."""

    def user(self) -> User:
        """With whose rights it is read and written. Raises `OSError`."""
        if self.owner is not None:
            return self.owner
        return whose_mail(self.root, os.path.join(self.inbox, b"cur"))

    def as_user(self, run: Callable[[], T]) -> T:
        """What `run` answers, done with the rights of whose it is. Raises `OSError`."""
        if os.geteuid() != 0:
            return run()
        with acting_as(self.user()):
            return run()

    @property
    def naming(self) -> Naming:
        return Naming(b"", b"/" if self.nested else b".", self.utf8)

    def path(self, wire: bytes) -> bytes:
        if wire == b"INBOX":
            return self.inbox
        return os.path.join(self.root, wire if self.nested else b"." + wire)

    def beside(self, wire: bytes) -> bytes:
        """Where the UID list and the keywords of a folder are."""
        if self.control == self.root:
            return self.path(wire)
        return os.path.join(self.control, wire if self.nested else b"." + wire)

    def is_sayable(self, wire: bytes) -> bool:
        """Can a folder have this name here, without meaning another one or leading out of the root?"""
        if wire == b"INBOX":
            return True
        levels = wire.split(b"/" if self.nested else b".")
        if wire.upper() == b"INBOX" or b"\0" in wire or (b"/" in wire and not self.nested):
            return False
        return not any(level in _RESERVED or (self.nested and level.startswith(b".")) for level in levels)

    def wires(self) -> Iterator[bytes]:
        """Every folder that can hold messages."""
        if folder.is_folder(self.inbox):
            yield b"INBOX"
        if self.nested:
            yield from self._nested(b"", above=())
            return
        with os.scandir(self.root) as entries:
            for entry in entries:
                if (
                    entry.name.startswith(b".")
                    and not entry.name.startswith(b"..")
                    and len(entry.name) > 1
                    and entry.name[1:].upper() != b"INBOX"
                    and folder.is_folder(entry.path)
                ):
                    yield entry.name[1:]

    def _nested(self, inside: bytes, *, above: tuple[bytes, ...]) -> Iterator[bytes]:
        above = (*above, folder.folder_object(os.path.join(self.root, inside)))
        with os.scandir(os.path.join(self.root, inside)) as entries:
            found = [e.name for e in entries if not e.name.startswith(b".") and e.name not in _RESERVED]
        names = [name for name in found if stat.S_ISDIR(leads_to(os.path.join(self.root, inside, name)))]
        for name in names:
            wire = os.path.join(inside, name)
            if folder.folder_object(os.path.join(self.root, wire)) in above:
                continue  # a link that leads back up: all that is there has been met, and would be met without end
            if wire.upper() != b"INBOX" and folder.is_folder(os.path.join(self.root, wire)):
                yield wire
            if len(above) <= DEPTH_MAX:
                yield from self._nested(wire, above=above)

    def listed(self, validity: int) -> list[Listed]:
        """Raises `OSError`."""
        subscribed = read_subscriptions(self.control, self.naming.separator or b".")
        found = []
        for wire in self.wires():
            path = self.path(wire)
            try:
                found.append(
                    Listed(
                        wire=wire,
                        subscribed=wire in subscribed,
                        mailbox_object=folder.folder_object(path),
                        validity=validity,
                        modseq=folder.signature(path, self.beside(wire)),
                    )
                )
            except FileNotFoundError:
                continue  # it went meanwhile
        return told_apart(sorted(found, key=lambda one: one.wire), root=self.root, path=self.path)

    def costs(self) -> tuple[str, ...]:
        """What preflight says of a Maildir that is to be made here. Raises `OSError`."""
        if os.geteuid() != 0 or self.owner is not None or os.path.isdir(self.root) or whose_path(self.root).uid:
            return ()
        return (
            f"The Maildir {os.fsdecode(self.root)} will be root's, as the folder is that it is made in, and no user "
            "can read it: owner= in the location says whose it is to be.",
        )

    # ---- changes

    def make_places(self) -> None:
        """What the folders lie in is there: the root, INBOX's place, and that of CONTROL=. Durable. In a folder of
        root's, where nobody else could, root makes them, and they are whose the mailbox is. Raises `OSError`."""
        for path in (self.root, self.inbox, self.control):
            with acting_as(whose_path(path) if self.owner != ROOT else ROOT):
                self._make_place(path)

    def _make_place(self, path: bytes) -> None:
        if os.path.isdir(path):
            return
        around = Owner.of(existing_above(path))
        around.make_folders(os.path.dirname(path))
        owner = around.private() if path == self.root else Owner.of(self.root)
        if self.owner is not None:
            owner = Owner(self.owner.uid, self.owner.gid, 0o700)
        owner.make_folder(path)
        sync_folder(os.path.dirname(path))

    def make(self, wire: bytes) -> None:
        """Durable. Raises `OSError`."""
        owner = Owner.of(self.root)
        self._make_above(wire, owner)
        folder.make(self.path(wire), owner, is_root=wire == b"INBOX" or self.nested)

    def _make_above(self, wire: bytes, owner: Owner) -> None:
        """What the folder lies in is there, durable. Raises `OSError`."""
        levels = wire.split(b"/") if self.nested and wire != b"INBOX" else []
        for depth in range(1, len(levels)):
            above = os.path.join(self.root, *levels[:depth])
            owner.make_folder(above)
            sync_folder(os.path.dirname(above))

    def rename(self, old: bytes, new: bytes) -> None:
        """The folder and all below it are there; done before a crash, in part or in whole, it is taken up where it
        ended. Durable. Raises `OSError`: FileExistsError where another folder has the name."""
        if self.nested:
            pairs = [(self.path(old), self.path(new))]
            self._make_above(new, Owner.of(self.root))
        else:
            # Those below first: while one of them is left, the folder itself says that this is not done.
            inside = b"." + old + b"."
            below = sorted(name for name in os.listdir(self.root) if name.startswith(inside))
            pairs = [
                (os.path.join(self.root, name), os.path.join(self.root, b"." + new + name[len(inside) - 1 :]))
                for name in below
            ] + [(self.path(old), self.path(new))]
        for source, target in pairs:
            if not os.path.isdir(source):
                continue
            if os.path.lexists(target):
                raise FileExistsError(None, "there is a folder of this name", os.fsdecode(target))
            if self.control != self.root:
                self._rename_beside(os.path.relpath(source, self.root), os.path.relpath(target, self.root))
            os.rename(source, target)
            sync_folder(os.path.dirname(target))
            if os.path.dirname(source) != os.path.dirname(target):
                sync_folder(os.path.dirname(source))

    def _rename_beside(self, old: bytes, new: bytes) -> None:
        """So that letters mean there what they meant here. What an earlier folder of that name left is written over.
        Raises `OSError`."""
        above = os.path.join(self.control, old)
        for place, _, names in os.walk(above):
            target = os.path.normpath(os.path.join(self.control, new, os.path.relpath(place, above)))
            Owner.of(self.root).make_folders(target)
            for name in names:
                os.replace(os.path.join(place, name), os.path.join(target, name))
            sync_folder(target)

    def delete(self, wire: bytes, mark: bytes) -> bool:
        """The folder is gone; False: there is something in it that is no mail program's own. Raises `OSError`."""
        path = self.path(wire)
        if not os.path.isdir(path):
            return True
        if not _is_bare(path):
            return False
        trash = os.path.join(self.root, TRASHED + mark)
        os.rename(path, trash)
        if not _is_bare(trash):  # somebody delivered in this moment
            os.rename(trash, path)
            return False
        for name in os.listdir(trash):
            inner = os.path.join(trash, name)
            os.rmdir(inner) if os.path.isdir(inner) else os.unlink(inner)
        os.rmdir(trash)
        sync_folder(os.path.dirname(path))
        return True


def _is_bare(path: bytes) -> bool:
    """Nothing is in it but what mail programs keep for themselves."""
    for name in os.listdir(path):
        inner = os.path.join(path, name)
        if name.endswith(b".moverq"):
            continue  # a file or folder of ours that a crash left without its name
        if os.path.isdir(inner):
            if name not in folder.SUBFOLDERS or os.listdir(inner):
                return False
        elif not SIDE_FILES.fullmatch(os.fsdecode(name)):
            return False
    return True
