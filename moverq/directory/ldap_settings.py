"""How an LDAP directory is reached and what its attributes are called: a root's `directory.toml`.

    [ldap]
    uri = "ldaps://ldap1.example.org"             # the one server that takes writes
    base = "dc=example,dc=org"                    # recipients are looked for below it
    people = "ou=people,dc=example,dc=org"        # new ones are made here
    configuration = "ou=moverq,dc=example,dc=org" # servers and databases
    bind_dn = "cn=moverq,dc=example,dc=org"
    password_file = "/etc/moverq/ldap.password"   # or password_env, or password_command = ["pass", "show", "ldap"]

    [ldap.attributes]                             # those that are called otherwise
    host = "mailHost"

The password is never in this file, never on a command line, and in no `repr`. It is read when a connection is made, so
that it can be changed while moves run.
"""

import ipaddress
import os
import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import cattrs
from cattrs.v import format_exception

from moverq.errors import EndpointBroken, RequestRefused

PASSWORD_COMMAND_S = 30.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+")


@attrs.frozen(kw_only=True)
class Attributes:
    """What the attributes of a recipient are called. The defaults are `moverq.ldif`'s own, and, for what other
    programs read, those of inetLocalMailRecipient (OpenLDAP's misc schema), which Postfix's and Dovecot's maps know."""

    mailbox: str = "moverqMailbox"
    address: str = "moverqAddress"
    register: str = "moverqRegister"
    token: str = "moverqToken"
    active_move: str = "moverqActiveMove"
    quota: str = "moverqQuota"
    move_status: str = "moverqMoveStatus"
    move_batch: str = "moverqMoveBatch"
    move_source: str = "moverqMoveSource"
    move_target: str = "moverqMoveTarget"
    mail: str = "mail"
    """An address, any number of them: those of the site itself, read and never changed."""
    alias: str = "mailLocalAddress"
    """An address, any number of them: those that moverq adds."""
    host: str = "mailHost"
    """The server of the home, which changes in the same Modify as the register: what a proxy and an MTA look up.
    Empty: not kept."""

    def __attrs_post_init__(self) -> None:
        names = attrs.asdict(self)
        for key, name in names.items():
            if not (_NAME.fullmatch(name) or (key == "host" and not name)):
                raise ValueError(f"attributes.{key} {name!r} is no attribute's name")
        ours = [name.lower() for key, name in names.items() if key not in ("mail", "alias") and name]
        if len(ours) != len(set(ours)):
            raise ValueError("attributes: two of them have one name, and would overwrite each other")


@attrs.frozen(kw_only=True)
class LdapSettings:
    """The `[ldap]` table."""

    uri: str
    base: str
    people: str
    configuration: str
    bind_dn: str = ""
    password_file: str | None = None
    password_env: str | None = None
    password_command: list[str] | None = None
    starttls: bool = False
    ca_file: str | None = None
    """Certificates that are trusted besides the machine's own."""
    recipient_classes: list[str] = attrs.field(factory=lambda: ["moverqRecipient", "inetLocalMailRecipient"])
    """Object classes that a recipient's entry gets; the first says that it is one."""
    person_classes: list[str] = attrs.field(factory=lambda: ["inetOrgPerson"])
    """Those of an entry that is made for a recipient who has none."""
    attributes: Attributes = attrs.field(factory=Attributes)

    def __attrs_post_init__(self) -> None:
        url = urlsplit(self.uri)
        if url.scheme not in ("ldap", "ldaps") or not url.hostname or url.path.strip("/"):
            raise ValueError(f"uri {self.uri!r} has not the form ldaps://host or ldap://host:389")
        if url.scheme == "ldaps" and self.starttls:
            raise ValueError("ldaps is TLS from the start; starttls is for ldap://")
        if url.scheme == "ldap" and not (self.starttls or _is_loopback(url.hostname)):
            raise ValueError(f"{self.uri} would send the password in the clear: say ldaps://, or starttls = true")
        ways = [self.password_file, self.password_env, self.password_command]
        if sum(way is not None for way in ways) != (1 if self.bind_dn else 0):
            raise ValueError("bind_dn goes with one of password_file, password_env and password_command")
        if not self.recipient_classes:
            raise ValueError("recipient_classes is empty: nothing would tell a recipient's entry")

    @property
    def is_tls(self) -> bool:
        """From the first byte."""
        return urlsplit(self.uri).scheme == "ldaps"

    @property
    def host(self) -> str:
        return urlsplit(self.uri).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.uri).port or (636 if self.is_tls else 389)

    def password(self) -> str:
        """The password, freshly read; empty where nobody binds. Blocking.

        Raises: `EndpointBroken`, without a word of what was read. Also where it is empty: servers take a bind without
            a password for nobody's, and say yes (RFC 4513 §5.1.2).
        """
        password = self._password()
        if self.bind_dn and not password:
            raise EndpointBroken(endpoint=self.uri, why="its password is empty")
        return password

    def _password(self) -> str:
        try:
            if self.password_file is not None:
                return Path(self.password_file).read_text().rstrip("\r\n")
            if self.password_env is not None:
                return os.environ[self.password_env]
            if self.password_command is not None:
                done = subprocess.run(
                    self.password_command, capture_output=True, text=True, timeout=PASSWORD_COMMAND_S, check=False
                )
                if done.returncode:
                    raise EndpointBroken(
                        endpoint=self.uri, why=f"password_command ended with exit code {done.returncode}"
                    )
                return done.stdout.rstrip("\r\n")
        except KeyError:
            why = f"password_env names {self.password_env}, which is not set"
        except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
            why = f"its password cannot be read: {type(error).__name__}"
        else:
            return ""
        raise EndpointBroken(endpoint=self.uri, why=why)


def read_settings(path: Path) -> LdapSettings:
    """What `path` says. Blocking. Raises `RequestRefused` with everything that is wrong in it."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    try:
        found = tomllib.loads(path.read_text())
        if set(found) != {"ldap"}:
            raise RequestRefused(why=f"{path} has to have one table, [ldap]")
        return converter.structure(found["ldap"], LdapSettings)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestRefused(why=f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RequestRefused(why=f"{path} is no TOML: {error}") from error
    except cattrs.BaseValidationError as error:
        raise RequestRefused(
            why=f"{path}: {'; '.join(cattrs.transform_error(error, path='ldap', format_exception=_said))}"
        ) from error


def _said(error: BaseException, kind: type | None) -> str:
    """In our own words, where they are ours."""
    return str(error) if type(error) is ValueError and kind is None else format_exception(error, kind)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
