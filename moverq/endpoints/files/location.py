"""Where a user's mail is, in the words of Dovecot's `mail_location`: a database's path in the directory.

    maildir:/var/vmail/%d/%n/Maildir:INBOX=/var/mail/%n?lock-command=/usr/local/sbin/keep-out {user}&release-command=…
    scheme  root                     options            moverq's own: the commands of the fence (`hooks`), the owner

`%u` is the address, `%n` its local part, `%d` its domain, `%h` the home of the system's user `%n`, `%%` a percent sign.
"""

import os
import pwd
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl

import attrs

from moverq.errors import RequestRefused

_VARIABLE: Final = re.compile(r"%(.)")
_SAFE: Final = re.compile(r"[^/\0]+")
_KNOWN: Final = frozenset("undh%")
_INDEXES: Final = ("INDEX", "INDEXPVT", "INDEXCACHE")
"""Dovecot's own affair."""


@attrs.frozen(kw_only=True)
class Location:
    """A location, taken apart."""

    root: str
    options: Mapping[str, str]
    """By name, in capitals."""
    owner: str | None
    """Whose the mail is; may hold variables."""
    lock_command: tuple[str, ...]
    release_command: tuple[str, ...]


def is_location(path: str, scheme: str) -> bool:
    return path.partition(":")[0].lower() == scheme


def take_apart(location: str, *, refuse: Callable[[str], RequestRefused], known: frozenset[str]) -> Location:
    """`known`: the options, in capitals, and `owner` where the format can have one. Raises what `refuse` makes of a
    sentence: for an option that is not known, and for half a fence."""
    _, _, rest = location.partition(":")
    where, _, query = rest.partition("?")
    root, *options = where.split(":")
    given: dict[str, str] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key.upper() not in _INDEXES:
            given[key.upper()] = value
    own = dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    lock = tuple(shlex.split(own.pop("lock-command", "")))
    release = tuple(shlex.split(own.pop("release-command", "")))
    owner = own.pop("owner", None) if "owner" in known else None
    unknown = sorted(given.keys() - known) or sorted(own)
    if unknown:
        raise refuse(f"{', '.join(unknown)} means nothing here")
    if bool(lock) != bool(release):
        raise refuse("lock-command= and release-command= go together")
    return Location(root=root, options=given, owner=owner, lock_command=lock, release_command=release)


def checked_path(path: str, *, refuse: Callable[[str], RequestRefused]) -> str:
    """An absolute path, which may hold variables. Raises what `refuse` makes of a sentence."""
    path = os.path.expanduser(path)
    if not os.path.isabs(path) and path[:3] not in ("%h", "%h/"):
        raise refuse(f"{path!r} is no absolute path")
    if not set(_VARIABLE.findall(path)) <= _KNOWN:
        raise refuse(f"{path!r}: of Dovecot's variables %u, %n, %d and %h can be said")
    return os.path.normpath(path)


def filled(path: str, address: str) -> str:
    """The path of this address. Raises `RequestRefused` where there can be none."""
    local, _, domain = address.rpartition("@")
    used = {letter for letter in _VARIABLE.findall(path) if letter != "%"}
    values = {"u": address, "n": local, "d": domain}
    for letter in used & values.keys():
        if not _SAFE.fullmatch(values[letter]) or values[letter] in (".", ".."):
            raise RequestRefused(why=f"{address!r} cannot be part of the path {path}")
    values["%"] = "%"
    if "h" in used:
        try:
            values["h"] = pwd.getpwnam(local).pw_dir
        except (KeyError, ValueError) as error:
            raise RequestRefused(why=f"{local!r} is no user of this system, who would have a home: {path}") from error
    return _VARIABLE.sub(lambda match: values[match[1]], path)


def is_one(path: str) -> bool:
    """Is it the same path for every address?"""
    return not set(_VARIABLE.findall(path)) - {"%"}
