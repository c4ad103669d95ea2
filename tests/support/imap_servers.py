"""The real IMAP servers that tests move mail between: one of each kind a process, started when first asked for."""

import imaplib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from tests.support.cyrus import shared_cyrus
from tests.support.dovecot import shared_dovecot


class ImapServer(Protocol):
    """One that runs. Every user name is a user."""

    @property
    def folder(self) -> Path: ...

    @property
    def separator(self) -> str:
        """Between the levels of a folder's name."""
        ...

    def url(self, *, user: str = "{address}", tls: bool = False, **more: str) -> str:
        """How moverq finds it: an administrator logs in for each user."""
        ...

    def login(self, user: str) -> imaplib.IMAP4:
        """A mail client that is not ours."""
        ...


SERVERS: dict[str, Callable[[], ImapServer]] = {
    "mdbox": partial(shared_dovecot, "mdbox"),
    "maildir": partial(shared_dovecot, "maildir"),
    "cyrus": shared_cyrus,
}
