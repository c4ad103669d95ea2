"""A real slapd of its own: configuration and data in one folder, on a loopback port, stopped by its pid.

It has OpenLDAP's usual schemas and moverq's, `dc=example,dc=org` with `ou=people`, and one who may write.
"""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from moverq.directory import schema_ldif
from moverq.directory.ldap_settings import LdapSettings
from tests.support.postfix import free_port
from tests.support.servers import required

SUFFIX = "dc=example,dc=org"
WRITER = f"cn=moverq,{SUFFIX}"
PASSWORD = "correct horse"

CONFIG = """
dn: cn=config
objectClass: olcGlobal
cn: config
{tls}
dn: cn=module,cn=config
objectClass: olcModuleList
cn: module
olcModulePath: /usr/lib/ldap
olcModuleLoad: back_mdb

dn: cn=schema,cn=config
objectClass: olcSchemaConfig
cn: schema

include: file:///etc/ldap/schema/core.ldif
include: file:///etc/ldap/schema/cosine.ldif
include: file:///etc/ldap/schema/inetorgperson.ldif
include: file:///etc/ldap/schema/misc.ldif

{schema}
dn: olcDatabase=frontend,cn=config
objectClass: olcDatabaseConfig
objectClass: olcFrontendConfig
olcDatabase: frontend
olcSizeLimit: size.soft=500 size.hard=500 size.prtotal=unlimited

dn: olcDatabase=mdb,cn=config
objectClass: olcDatabaseConfig
objectClass: olcMdbConfig
olcDatabase: mdb
olcSuffix: {suffix}
olcDbDirectory: {folder}/data
olcRootDN: {root}
olcRootPW: root
olcDbIndex: objectClass,moverqMailbox,mail,mailLocalAddress,moverqAddress eq
olcAccess: to attrs=userPassword by dn.exact="{writer}" write by anonymous auth by * none
olcAccess: to * by dn.exact="{writer}" write by * read
"""

DATA = """
dn: {suffix}
objectClass: organization
objectClass: dcObject
o: Example
dc: example

dn: ou=people,{suffix}
objectClass: organizationalUnit
ou: people

dn: {writer}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: moverq
userPassword: {password}
"""


@attrs.frozen
class Slapd:
    """A running one."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"
    tls_port: int

    @property
    def uri(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    def settings(self, **changed: object) -> LdapSettings:
        """As a root's `directory.toml` has them."""
        (self.folder / "password").write_text(PASSWORD + "\n")
        values: dict[str, object] = {
            "uri": self.uri,
            "base": SUFFIX,
            "people": f"ou=people,{SUFFIX}",
            "configuration": f"ou=moverq,{SUFFIX}",
            "bind_dn": WRITER,
            "password_file": str(self.folder / "password"),
        }
        return LdapSettings(**{**values, **changed})  # type: ignore[arg-type]

    def toml(self) -> str:
        settings = self.settings()
        names = ("uri", "base", "people", "configuration", "bind_dn", "password_file")
        return "[ldap]\n" + "".join(f'{name} = "{getattr(settings, name)}"\n' for name in names)

    def change(self, ldif: str) -> None:
        """As the directory's administrator, by its own tools."""
        tool = ["ldapmodify", "-x", "-H", self.uri, "-D", f"cn=root,{SUFFIX}", "-w", "root"]
        subprocess.run(tool, input=ldif.encode(), check=True, capture_output=True)

    def found(self, where: str, *names: str) -> str:
        """What anybody may read, as LDIF without comments."""
        tool = ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", self.uri, "-b", SUFFIX, where, *names]
        return subprocess.run(tool, check=True, capture_output=True, text=True).stdout


@contextmanager
def real_slapd(folder: Path, *, tls: tuple[Path, Path] | None = None) -> Iterator[Slapd]:
    """Running, and gone at the end. `tls`: its certificate and key."""
    program = required("slapd")
    for name in ("config", "data"):
        (folder / name).mkdir(parents=True)
    certificate = f"olcTLSCertificateFile: {tls[0]}\nolcTLSCertificateKeyFile: {tls[1]}\n" if tls else ""
    common = {"folder": folder, "suffix": SUFFIX, "writer": WRITER, "root": f"cn=root,{SUFFIX}", "password": PASSWORD}
    (folder / "config.ldif").write_text(CONFIG.format(schema=schema_ldif(), tls=certificate, **common))
    (folder / "data.ldif").write_text(DATA.format(**common))
    for number, name in ((0, "config"), (1, "data")):
        subprocess.run(
            ["slapadd", "-n", str(number), "-F", folder / "config", "-l", folder / f"{name}.ldif"],
            check=True,
            capture_output=True,
        )
    port, tls_port = free_port(), free_port()
    urls = f"ldap://127.0.0.1:{port}" + (f" ldaps://127.0.0.1:{tls_port}" if tls else "")
    process = subprocess.Popen(
        [program, "-F", str(folder / "config"), "-h", urls, "-d", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            assert process.poll() is None, "slapd ended"
            assert time.monotonic() < deadline, "slapd does not answer"
            time.sleep(0.02)
        yield Slapd(folder, port, process, tls_port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
