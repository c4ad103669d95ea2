"""A real Cyrus IMAP for tests: unpacked beside the system, on loopback at a free port, stopped by its pid.

Its package cannot be installed beside Dovecot's, so it is unpacked into a folder of its own (`unpacked`). Its programs
refuse to be root, and become `USER`.

Every user name is a user: the administrator logs in for him, and his mailbox is made at that login. Each test takes a
user of its own. A process starts one server, when a test first asks, and stops it at its end.
"""

import atexit
import functools
import imaplib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import attrs

from tests.support.imap_place import ADMIN, PASSWORD, ImapPlace, prepare, wait_for_greeting
from tests.support.ports import free_ports
from tests.support.servers import required_root
from tests.support.unpacked import unpacked_folder

USER = "nobody"
UNPACKED = unpacked_folder("cyrus-imapd")
PROGRAMS = UNPACKED / "usr/lib/cyrus/bin"

IMAPD = """
configdirectory: {folder}/conf
defaultpartition: default
partition-default: {folder}/spool
admins: {admin}
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {folder}/sasldb2
sasl_mech_list: {mechanisms}
allowplaintext: yes
cyrus_user: {user}
servername: localhost
virtdomains: userid
defaultdomain: example.invalid
unixhierarchysep: yes
altnamespace: {alternate}
hashimapspool: yes
autocreate_quota: 0
autocreate_post: 0
autocreate_quota_messages: -1
statuscache: yes
maxlogins_per_user: {logins}
specialusealways: yes
duplicatesuppression: no
delete_mode: immediate
expunge_mode: immediate
idlesocket: {folder}/conf/socket/idle
sync_log: no
tls_server_cert: {folder}/tls.pem
tls_server_key: {folder}/tls.key
{more}
"""

MASTER = """
START {{
  recover cmd="{programs}/ctl_cyrusdb -C {folder}/imapd.conf -r"
}}
SERVICES {{
  imap cmd="{programs}/imapd -C {folder}/imapd.conf" listen="127.0.0.1:{port}" prefork=1 maxchild=100
  imaps cmd="{programs}/imapd -s -C {folder}/imapd.conf" listen="127.0.0.1:{tls_port}" prefork=0 maxchild=100
}}
DAEMON {{
  idled cmd="{programs}/idled -C {folder}/imapd.conf"
}}
EVENTS {{
}}
"""


@attrs.frozen
class Cyrus(ImapPlace):
    """One that runs."""

    process: "subprocess.Popen[bytes] | None" = None
    separator: str = "/"

    def login(self, user: str) -> imaplib.IMAP4:
        """A mail client that is not ours."""
        client = self.connected()
        client.authenticate("PLAIN", lambda _: b"\0".join(w.encode() for w in (user, ADMIN, PASSWORD)))
        return client

    def administer(self, *words: str) -> list[bytes]:
        """What the administrator's command (its verb, then its arguments) is answered."""
        client = self.connected()
        try:
            client.login(ADMIN, PASSWORD)
            status, answer = client._simple_command(*words)
            assert status == "OK", (words, answer)
            return [bytes(line) for line in answer]
        finally:
            client.shutdown()

    def add_login(self, name: str, password: str) -> None:
        """Somebody who can log in with a password of his own."""
        words = [UNPACKED / "usr/sbin/saslpasswd2", "-f", self.folder / "sasldb2", "-c", "-p", "-u", "localhost", name]
        subprocess.run(words, input=password.encode(), env=_environment(), check=True, capture_output=True)

    def stop(self) -> None:
        """It ended, and its folder is gone."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)


def start_cyrus(*, alternate: bool = True, mechanisms: str = "PLAIN LOGIN", logins: int = 0, more: str = "") -> Cyrus:
    """A Cyrus is up. `stop` it. Skips the test, or fails it, where there is none.

    alternate: folders stand beside INBOX; without, below it: `INBOX/Sent`. logins: of one user at a time; 0 is any
    number. more: further lines of its imapd.conf.
    """
    required_root("cyrus")
    # It syncs eleven times a message, which no test of ours is about.
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="moverq-cyrus-", dir=memory if os.access(memory, os.W_OK) else None))
    place.chmod(0o755)
    for name in ("db", "lock", "log", "msg", "proc", "ptclient", "socket", "sync", "user", "quota"):
        (place / "conf" / name).mkdir(parents=True)
    (place / "spool").mkdir()
    (place / "run").mkdir()
    prepare(place)
    port, tls_port = free_ports(2)
    values = {
        "folder": place,
        "admin": ADMIN,
        "user": USER,
        "mechanisms": mechanisms,
        "alternate": "yes" if alternate else "no",
        "logins": logins,
        "more": more,
        "programs": PROGRAMS,
        "port": port,
        "tls_port": tls_port,
    }
    (place / "imapd.conf").write_text(IMAPD.format(**values))
    (place / "cyrus.conf").write_text(MASTER.format(**values))
    cyrus = Cyrus(place, port, tls_port)
    cyrus.add_login(ADMIN, PASSWORD)
    owner = pwd.getpwnam(USER)
    for inner in (place, *place.rglob("*")):
        os.chown(inner, owner.pw_uid, owner.pw_gid)
    with (place / "out").open("wb") as out:
        process = subprocess.Popen(
            [
                PROGRAMS / "master",
                "-C",
                place / "imapd.conf",
                "-M",
                place / "cyrus.conf",
                "-p",
                place / "run/pid",
                "-D",
            ],
            env=_environment(),
            start_new_session=True,  # at its end it tells its whole process group
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    wait_for_greeting(port, is_up=lambda: process.poll() is None, said=place / "out")
    return attrs.evolve(cyrus, process=process)


@functools.cache
def shared_cyrus() -> Cyrus:
    """This process's server, stopped when the process ends."""
    server = start_cyrus()
    atexit.register(server.stop)
    return server


def _environment() -> dict[str, str]:
    libraries = [*UNPACKED.glob("usr/lib/*-linux-gnu"), *UNPACKED.glob("lib/*-linux-gnu")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries),
        "SASL_PATH": str(libraries[0] / "sasl2"),
    }
