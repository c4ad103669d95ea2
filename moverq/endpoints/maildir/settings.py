"""Where Maildirs are: a location as Dovecot's `mail_location` has it, which the directory keeps as a database's path.

    maildir:/var/vmail/%d/%n/Maildir                 a Maildir for each address of the domain
    maildir:/home/ada/Maildir                        one Maildir: a database of one mailbox
    maildir:/var/spool/maildirs/%n?owner=%n          those of the system's users, where root has the folder
    maildir:/srv/mail/%u:LAYOUT=fs:UTF-8:INBOX=/var/mail/%u:CONTROL=/srv/control/%u

What the words mean: `files.location`.
"""

import os
from typing import Final

import attrs

from moverq.endpoints.files import location
from moverq.endpoints.files.acting import User, user_named
from moverq.endpoints.files.location import filled
from moverq.endpoints.maildir.layout import Layout
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.errors import RequestRefused

SCHEME: Final = "maildir"


@attrs.frozen(kw_only=True)
class Settings:
    """What the location says. Paths may hold variables."""

    root: str
    inbox: str | None
    control: str | None
    nested: bool
    utf8: bool
    owner: str | None
    lock_command: tuple[str, ...]
    release_command: tuple[str, ...]

    @property
    def naming(self) -> Naming:
        return Naming(b"", b"/" if self.nested else b".", self.utf8)

    @property
    def is_one_mailbox(self) -> bool:
        """Is every address's mailbox the same one?"""
        return location.is_one(self.root)

    def user_of(self, address: str) -> str:
        """The address, which can be part of every path. Raises `RequestRefused`."""
        for path in (self.root, self.inbox, self.control):
            filled(path or "", address)
        self._owner_of(address)
        return address

    def _owner_of(self, user: str) -> User | None:
        if self.owner is None:
            return None
        name = filled(self.owner, user)
        try:
            return user_named(name)
        except KeyError as error:
            raise RequestRefused(why=f"{name!r} is no user of this system, whose a Maildir could be") from error

    def layout_of(self, user: str) -> Layout:
        """Where this user's folders are."""
        root = os.fsencode(filled(self.root, user))
        return Layout(
            root=root,
            inbox=os.fsencode(filled(self.inbox, user)) if self.inbox is not None else root,
            nested=self.nested,
            utf8=self.utf8,
            control=os.fsencode(filled(self.control, user)) if self.control is not None else root,
            owner=self._owner_of(user),
        )


def parse(path: str) -> Settings:
    """Raises `RequestRefused` with a sentence for whatever cannot be meant."""

    def refuse(why: str) -> RequestRefused:
        return RequestRefused(why=f"{path} does not say where Maildirs are: {why}")

    if not location.is_location(path, SCHEME):
        raise refuse("it needs the form maildir:/path/to/Maildir")
    found = location.take_apart(path, refuse=refuse, known=frozenset({"INBOX", "CONTROL", "LAYOUT", "UTF-8", "owner"}))
    layout = found.options.get("LAYOUT", "maildir++").lower()
    if layout not in ("maildir++", "fs"):
        raise refuse(f"LAYOUT={layout}: it is maildir++ or fs")
    inbox, control = (found.options.get(name) for name in ("INBOX", "CONTROL"))
    return Settings(
        root=location.checked_path(found.root, refuse=refuse),
        inbox=location.checked_path(inbox, refuse=refuse) if inbox is not None else None,
        control=location.checked_path(control, refuse=refuse) if control is not None else None,
        nested=layout == "fs",
        utf8="UTF-8" in found.options,
        owner=found.owner,
        lock_command=found.lock_command,
        release_command=found.release_command,
    )
