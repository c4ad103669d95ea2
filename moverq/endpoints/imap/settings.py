"""Where an IMAP server is and how to log in there: one URL, which the directory keeps as the database's path.

    imaps://admin@old.example.com/?password-file=/etc/moverq/old.password
    imap://old.example.com:143/?password-env=OLD_PASSWORD&user={local}
    imaps://host/?auth=xoauth2&password-command=/usr/local/bin/token {user}

`imaps` is TLS from the first byte; `imap` is STARTTLS, unless `tls=none` says that there is to be none. Certificates
are verified, always. A name before the `@` is an administrator who logs in for each user (PLAIN's authorization
identity); without one every user logs in for himself.

The URL never holds a password: it says where one is. So it may be shown, logged and kept in a directory.
"""

import re
import shlex
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from moverq.endpoints.imap.sasl import AUTHS
from moverq.endpoints.mirrored.hooks import fill
from moverq.errors import RequestRefused

SCHEMES: Final = ("imap", "imaps")
PORTS: Final = {"imap": 143, "imaps": 993}
CONNECTIONS_MAX: Final = 16


@attrs.frozen(kw_only=True)
class Secret:
    """Where a password is: the first line of a file, an environment variable, or what a command prints."""

    kind: str
    """file, env or command."""
    where: str
    """May hold {user}: each user then has a secret of his own."""


@attrs.frozen(kw_only=True)
class Settings:
    """What the URL says."""

    host: str
    port: int
    tls: str
    """implicit, starttls or none."""
    ca_file: str | None
    login: str | None
    user: str
    login_as: str | None
    auth: str | None
    secret: Secret
    lock_command: tuple[str, ...]
    release_command: tuple[str, ...]
    connections: int
    compress: bool

    def user_of(self, address: str) -> str:
        """What the user of this address is called at the server."""
        local, _, domain = address.rpartition("@")
        return fill(self.user, {"address": address, "local": local, "domain": domain})


def is_imap(path: str) -> bool:
    """Is this path of a database an IMAP server's URL?"""
    return path.partition("://")[0].lower() in SCHEMES


def parse(url: str) -> Settings:
    """Raises `RequestRefused` with a sentence for whatever cannot be meant."""

    def refuse(why: str) -> RequestRefused:
        return RequestRefused(why=f"{url} does not say where an IMAP server is: {why}")

    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if ":" in authority.rpartition("@")[0]:  # before anything that repeats the URL
        raise RequestRefused(
            why="a URL is no place for a password; say password-file=, password-env= or password-command="
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise refuse(str(error)) from error
    if parts.scheme not in SCHEMES or not host:
        raise refuse("it needs the form imaps://host/?password-file=/path")
    if parts.path not in ("", "/") or parts.fragment:
        raise refuse(f"{parts.path}{parts.fragment} after the host means nothing")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    secrets = [
        (kind, given.pop(f"password-{kind}")) for kind in ("file", "env", "command") if f"password-{kind}" in given
    ]
    if len(secrets) != 1:
        raise refuse("say where the password is, by one of password-file=, password-env= and password-command=")
    tls = "implicit" if parts.scheme == "imaps" else given.pop("tls", "starttls")
    if tls not in ("implicit", "starttls", "none"):
        raise refuse(f"tls={tls}: only tls=none can be said")
    auth = given.pop("auth", None)
    if auth is not None and auth not in AUTHS:
        raise refuse(f"auth={auth}: it is one of {', '.join(AUTHS)}")
    count = given.pop("connections", "8")
    if not count.isdigit() or not 1 <= int(count) <= CONNECTIONS_MAX:
        raise refuse(f"connections={count}: a number from 1 to {CONNECTIONS_MAX}")
    compress = given.pop("compress", "no")
    if compress not in ("yes", "no"):
        raise refuse(f"compress={compress}: yes or no")
    settings = Settings(
        host=host,
        port=port if port is not None else PORTS[parts.scheme],
        tls=tls,
        ca_file=given.pop("ca-file", None),
        login=unquote(parts.username) if parts.username else None,
        user=given.pop("user", "{address}"),
        login_as=given.pop("login-as", None),
        auth=auth,
        secret=Secret(kind=secrets[0][0], where=secrets[0][1]),
        lock_command=tuple(shlex.split(given.pop("lock-command", ""))),
        release_command=tuple(shlex.split(given.pop("release-command", ""))),
        connections=int(count),
        compress=compress == "yes",
    )
    if given:
        raise refuse(f"{', '.join(sorted(given))} means nothing here")
    if bool(settings.lock_command) != bool(settings.release_command):
        raise refuse("lock-command= and release-command= go together")
    return settings
