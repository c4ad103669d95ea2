"""Where Maildirs are: a location as Dovecot's `mail_location` has it, which the directory keeps as a database's path.

    maildir:/var/vmail/%d/%n/Maildir                 a Maildir for each address of the domain
    maildir:/home/ada/Maildir                        one Maildir: a database of one mailbox
    maildir:/srv/mail/%u:LAYOUT=fs:UTF-8:INBOX=/var/mail/%u:CONTROL=/srv/control/%u
    maildir:/var/vmail/%d/%n?lock-command=/usr/local/sbin/keep-out {user}&release-command=/usr/local/sbin/let-in {user}

`%u` is the address, `%n` its local part, `%d` its domain, `%%` a percent sign. What follows a question mark is moverq's
own: the commands of the fence (`hooks`), with the address for `{user}`.
"""

import os
import re
import shlex
from typing import Final
from urllib.parse import parse_qsl

import attrs

from moverq.endpoints.maildir.layout import Layout
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.errors import RequestRefused

SCHEME: Final = "maildir"
_VARIABLE: Final = re.compile(r"%(.)")
_SAFE: Final = re.compile(r"[^/\0]+")


@attrs.frozen(kw_only=True)
class Settings:
    """What the location says. Paths may hold variables."""

    root: str
    inbox: str | None
    control: str | None
    nested: bool
    utf8: bool
    lock_command: tuple[str, ...]
    release_command: tuple[str, ...]

    @property
    def naming(self) -> Naming:
        return Naming(b"", b"/" if self.nested else b".", self.utf8)

    @property
    def is_one_mailbox(self) -> bool:
        """Is every address's mailbox the same one?"""
        return _filled(self.root, "a@b") == _filled(self.root, "c@d")

    def user_of(self, address: str) -> str:
        """The address, which can be part of every path. Raises `RequestRefused`."""
        for path in (self.root, self.inbox, self.control):
            _filled(path or "", address)
        return address

    def layout_of(self, user: str) -> Layout:
        """Where this user's folders are."""
        root = os.fsencode(_filled(self.root, user))
        return Layout(
            root=root,
            inbox=os.fsencode(_filled(self.inbox, user)) if self.inbox is not None else root,
            nested=self.nested,
            utf8=self.utf8,
            control=os.fsencode(_filled(self.control, user)) if self.control is not None else root,
        )


def _filled(template: str, address: str) -> str:
    local, _, domain = address.rpartition("@")
    values = {"u": address, "n": local, "d": domain, "%": "%"}
    used = {letter for letter in _VARIABLE.findall(template) if letter != "%"}
    for letter in used:
        value = values[letter]
        if not _SAFE.fullmatch(value) or value in (".", ".."):
            raise RequestRefused(why=f"{address!r} cannot be part of the path {template}")
    return _VARIABLE.sub(lambda match: values[match[1]], template)


def parse(location: str) -> Settings:
    """Raises `RequestRefused` with a sentence for whatever cannot be meant."""

    def refuse(why: str) -> RequestRefused:
        return RequestRefused(why=f"{location} does not say where Maildirs are: {why}")

    scheme, _, rest = location.partition(":")
    if scheme.lower() != SCHEME:
        raise refuse("it needs the form maildir:/path/to/Maildir")
    where, _, query = rest.partition("?")
    root, *options = where.split(":")
    given: dict[str, str] = {}
    for option in options:
        key, _, value = option.partition("=")
        given[key.upper()] = value
    inbox, control = given.pop("INBOX", None), given.pop("CONTROL", None)
    layout = given.pop("LAYOUT", "maildir++").lower()
    utf8 = given.pop("UTF-8", None) is not None
    for key in ("INDEX", "INDEXPVT", "INDEXCACHE"):
        given.pop(key, None)  # Dovecot's own affair
    if given:
        raise refuse(f"{', '.join(sorted(given))} means nothing here")
    if layout not in ("maildir++", "fs"):
        raise refuse(f"LAYOUT={layout}: it is maildir++ or fs")
    for path in (root, inbox, control):
        if path is not None and not os.path.isabs(os.path.expanduser(path)):
            raise refuse(f"{path!r} is no absolute path")
        if path is not None and not {*_VARIABLE.findall(path)} <= {"u", "n", "d", "%"}:
            raise refuse(f"{path!r}: of Dovecot's variables %u, %n and %d can be said")
    own = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    settings = Settings(
        root=os.path.normpath(os.path.expanduser(root)),
        inbox=os.path.normpath(os.path.expanduser(inbox)) if inbox is not None else None,
        control=os.path.normpath(os.path.expanduser(control)) if control is not None else None,
        nested=layout == "fs",
        utf8=utf8,
        lock_command=tuple(shlex.split(own.pop("lock-command", ""))),
        release_command=tuple(shlex.split(own.pop("release-command", ""))),
    )
    if own:
        raise refuse(f"{', '.join(sorted(own))} means nothing here")
    if bool(settings.lock_command) != bool(settings.release_command):
        raise refuse("lock-command= and release-command= go together")
    return settings
