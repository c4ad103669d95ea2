"""Which kind of endpoint a database is: its path in the directory says it.

    imap://… imaps://…   an IMAP server
    maildir:/…           Maildirs
    mbox:/…              mbox files
    all else             a folder of our own store

What a kind needs to run is imported when one is opened: a command that moves nothing does not wait for it.
"""

import os
import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from moverq.endpoints.imap import settings as imap_settings
from moverq.errors import RequestRefused

if TYPE_CHECKING:
    from moverq.endpoints.mirrored.endpoint import AddressOf, MirroredEndpoint


def is_mail_system(path: str) -> bool:
    """Is the database a mail system of somebody else's, and not a store of ours?"""
    return imap_settings.is_imap(path) or _scheme(path) in ("maildir", "mbox")


def _scheme(path: str) -> str:
    """Empty where the path has none: a place of mbox files that was not given a name is called `mbox`."""
    scheme, colon, _ = path.partition(":")
    return scheme.lower() if colon else ""


def checked_location(path: str) -> tuple[str, str]:
    """(the server's name, its version) for a mail system that the directory does not know yet.

    Raises:
        RequestRefused: the path does not say where it is.
    """
    if imap_settings.is_imap(path):
        return imap_settings.parse(path).host, "IMAP"
    if _scheme(path) == "mbox":
        from moverq.endpoints.mbox import settings as mbox_settings

        mbox_settings.parse(path)
        return "mbox", "MBOX"
    from moverq.endpoints.maildir import settings as maildir_settings

    maildir_settings.parse(path)
    return "maildir", "MAILDIR"


def checked_folder(path: str) -> None:
    """Raises `RequestRefused` where the path says a kind of place that there is not, and is not to become a folder."""
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+-]*):", path)
    if scheme is not None:
        raise RequestRefused(
            why=f"{path!r} is no place of mailboxes: a mail system is said as imap://, imaps://, maildir:/ or mbox:/, "
            f"and a folder of that name as ./{path}"
        )


def place_of(path: str) -> str:
    """Where the mail of a database is, without how it is reached: one place has one such name."""
    if not is_mail_system(path):
        return os.path.normpath(path)
    if imap_settings.is_imap(path):
        said = imap_settings.parse(path)
        return f"{said.host}:{said.port} {said.user}".lower()
    return path.partition("?")[0].rstrip("/")


def described(path: str) -> str:
    """What the database is, in a sentence with `it is`."""
    if imap_settings.is_imap(path):
        return "an IMAP server: its mailboxes are used by IMAP"
    if _scheme(path) == "mbox":
        return "a place of mbox files: its mailboxes are used by a mail server's programs"
    return "a place of Maildirs: its mailboxes are used by a mail server's programs"


def open_mail_system(
    name: str, path: str, *, mirrors: Path, address_of: "AddressOf"
) -> "AbstractAsyncContextManager[MirroredEndpoint]":
    """The endpoint of database `name`. Raises `RequestRefused`."""
    if imap_settings.is_imap(path):
        from moverq.endpoints.imap.endpoint import open_endpoint as open_imap

        return open_imap(name, path, mirrors=mirrors, address_of=address_of)
    if _scheme(path) == "mbox":
        from moverq.endpoints.mbox.endpoint import open_endpoint as open_mbox_files

        return open_mbox_files(name, path, mirrors=mirrors, address_of=address_of)
    from moverq.endpoints.maildir.endpoint import open_endpoint as open_maildirs

    return open_maildirs(name, path, mirrors=mirrors, address_of=address_of)
