"""Real servers in tests: which package has them, and what a test does where one is missing.

A machine without them runs the rest, and each skipped test says what it wanted. Where the site asks for all of them
(`MOVERQ_REQUIRE_SERVERS=1`, as `.ci/run` does) a missing one is a failure: a test that silently never runs proves
nothing. `python -m tests.support.servers`, as `make test` calls it, installs what is missing where it may: by
apt-get, as root. Their own daemons are not started; tests run theirs.

A package that cannot be installed beside another one (Cyrus beside Dovecot) is unpacked, with what it needs, into a
folder of its own: see `unpacked`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

from tests.support.unpacked import unpack, unpacked_folder

POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask whether they may start their daemon."""


@attrs.frozen
class Server:
    """A program of a real server, and the Debian package that brings it."""

    package: str
    program: str
    also_in: tuple[str, ...] = ("/usr/sbin", "/usr/bin", "/usr/lib/postfix/sbin")
    module: str | None = None
    """A file that must be there too: a package that adds to another one's program."""
    unpacked_in: str | None = None
    """The program's folder in the package, where that is not installed but unpacked beside the system."""

    def path(self) -> str | None:
        """Where the program is, or None."""
        if self.unpacked_in is not None:
            return shutil.which(self.program, path=str(unpacked_folder(self.package) / self.unpacked_in))
        if self.module is not None and not os.path.exists(self.module):
            return None
        return shutil.which(self.program, path=os.pathsep.join((os.environ.get("PATH", ""), *self.also_in)))


SERVERS = {
    "postfix": Server("postfix", "postfix"),
    "postmap with LDAP": Server("postfix-ldap", "postmap", module="/usr/lib/postfix/postfix-ldap.so"),
    "slapd": Server("slapd", "slapd"),
    "ldapmodify": Server("ldap-utils", "ldapmodify"),
    "dovecot": Server("dovecot-imapd", "dovecot", module="/usr/lib/dovecot/imap"),
    "dovecot with LDAP": Server("dovecot-ldap", "dovecot", module="/usr/lib/dovecot/modules/auth/libauthdb_ldap.so"),
    "dovecot with LMTP": Server("dovecot-lmtpd", "dovecot", module="/usr/lib/dovecot/lmtp"),
    "cyrus": Server("cyrus-imapd", "imapd", unpacked_in="usr/lib/cyrus/bin"),
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


def install() -> None:
    """What is missing is installed or unpacked, or it is said that it is not."""
    absent = [server for server in SERVERS.values() if server.path() is None]
    packages = sorted({server.package for server in absent if server.unpacked_in is None})
    beside = sorted({server.package for server in absent if server.unpacked_in is not None})
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("not here, so tests that need them are skipped:", *packages, *beside)
        return
    print("installing, for tests:", *packages, *beside, flush=True)
    _apt("update")
    if packages:
        made = not POLICY.exists()
        if made:
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            POLICY.chmod(0o755)
        try:
            _apt("install", "-y", "--no-install-recommends", *packages)
        finally:
            if made:
                POLICY.unlink()
    for package in beside:
        try:
            unpack(package)
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(map(str, error.cmd))}: {str(error.stderr).strip()}")


def _apt(*words: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-qq", *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"apt-get {words[0]}: {done.stderr.strip()}")


if __name__ == "__main__":
    install()
