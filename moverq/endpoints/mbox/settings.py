"""Where mbox files are: a location as Dovecot's `mail_location` has it, which the directory keeps as a database's path.

    mbox:~/mail:INBOX=/var/mail/%n                   folders in the home of the system's user, INBOX in the spool
    mbox:/srv/mail/%d/%n                             a directory for each address, INBOX in it
    mbox:/var/mail/ada                               one file: a database of one mailbox with one folder

What the words mean: `files.location`; `~` is `%h`, as in Dovecot.
"""

import os
from typing import Final

import attrs

from moverq.endpoints.files import location
from moverq.endpoints.files.location import filled
from moverq.endpoints.mbox.layout import Layout
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.errors import RequestRefused

SCHEME: Final = "mbox"


@attrs.frozen(kw_only=True)
class Settings:
    """What the location says. Paths may hold variables."""

    root: str
    inbox: str | None
    utf8: bool
    lock_command: tuple[str, ...]
    release_command: tuple[str, ...]

    @property
    def naming(self) -> Naming:
        return Naming(b"", b"/", self.utf8)

    @property
    def is_one_mailbox(self) -> bool:
        """Is every address's mailbox the same one?"""
        return location.is_one(self.root)

    def user_of(self, address: str) -> str:
        """The address, which can be part of every path. Raises `RequestRefused`."""
        for path in (self.root, self.inbox):
            filled(path or "", address)
        return address

    def layout_of(self, user: str) -> Layout:
        """Where this user's folders are."""
        return Layout(
            root=os.fsencode(filled(self.root, user)),
            inbox=os.fsencode(filled(self.inbox, user)) if self.inbox is not None else None,
            utf8=self.utf8,
        )


def parse(path: str) -> Settings:
    """Raises `RequestRefused` with a sentence for whatever cannot be meant."""

    def refuse(why: str) -> RequestRefused:
        return RequestRefused(why=f"{path} does not say where mbox files are: {why}")

    def checked(path: str) -> str:
        return location.checked_path("%h" + path[1:] if path[:2] in ("~", "~/") else path, refuse=refuse)

    if not location.is_location(path, SCHEME):
        raise refuse("it needs the form mbox:/path/to/mail")
    found = location.take_apart(path, refuse=refuse, known=frozenset({"INBOX", "LAYOUT", "UTF-8"}))
    if found.options.get("LAYOUT", "fs").lower() != "fs":
        raise refuse(f"LAYOUT={found.options['LAYOUT']}: it can only be fs")
    inbox = found.options.get("INBOX")
    return Settings(
        root=checked(found.root),
        inbox=checked(inbox) if inbox is not None else None,
        utf8="UTF-8" in found.options,
        lock_command=found.lock_command,
        release_command=found.release_command,
    )
