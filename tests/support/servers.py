"""Real servers in tests: which package has them, and what a test does where one is missing.

A machine without them runs the rest, and each skipped test says what it wanted. Where the site asks for all of them
(`MOVERQ_REQUIRE_SERVERS=1`, as `.ci/run` does) a missing one is a failure: a test that silently never runs proves
nothing. `python -m tests.support.servers` prints the packages that are missing here; `make test` installs those where
it may.

Cyrus is not in the list: its package and Dovecot's cannot be installed together.
"""

import os
import shutil

import attrs
import pytest


@attrs.frozen
class Server:
    """A program of a real server, and the Debian package that brings it."""

    package: str
    program: str
    also_in: tuple[str, ...] = ("/usr/sbin", "/usr/bin", "/usr/lib/postfix/sbin")
    module: str | None = None
    """A file that must be there too: a package that adds to another one's program."""

    def path(self) -> str | None:
        """Where the program is, or None."""
        if self.module is not None and not os.path.exists(self.module):
            return None
        return shutil.which(self.program, path=os.pathsep.join((os.environ.get("PATH", ""), *self.also_in)))


SERVERS = {
    "postfix": Server("postfix", "postfix"),
    "postmap with LDAP": Server("postfix-ldap", "postmap", module="/usr/lib/postfix/postfix-ldap.so"),
    "slapd": Server("slapd", "slapd"),
    "dovecot": Server("dovecot-imapd", "dovecot", module="/usr/lib/dovecot/imap"),
    "dovecot with LDAP": Server("dovecot-ldap", "dovecot", module="/usr/lib/dovecot/modules/auth/libauthdb_ldap.so"),
}


def required(name: str) -> str:
    """The path of this server's program; where it is missing the test is skipped, or fails where all are required."""
    found = SERVERS[name].path()
    if found is None:
        missing(name, f"Debian's {SERVERS[name].package}")
    assert found is not None
    return found


def required_root(name: str) -> str:
    """Likewise, for a server that only root can start."""
    found = required(name)
    if os.geteuid() != 0:
        missing(name, "it starts as root alone")
    return found


def missing(name: str, why: str) -> None:
    """This test cannot run here."""
    if os.environ.get("MOVERQ_REQUIRE_SERVERS") == "1":
        pytest.fail(f"needs a real {name} ({why}), and MOVERQ_REQUIRE_SERVERS=1", pytrace=False)
    pytest.skip(f"needs a real {name} ({why})")


if __name__ == "__main__":
    print(*sorted({server.package for server in SERVERS.values() if server.path() is None}))
