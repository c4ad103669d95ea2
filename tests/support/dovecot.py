"""A real Dovecot for tests: configuration of its own, on loopback at a free port, stopped by its pid.

Every user name is a user, with one password; so each test takes a user of its own and no server is started for it. A
process starts one server a mail format, when a test first asks, and stops it at its end.
"""

import atexit
import contextlib
import functools
import imaplib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import attrs

from tests.support.ports import free_ports
from tests.support.servers import missing, required

PASSWORD = "secret-of-the-tests"
ADMIN = "admin"
UID = 5000
FORMATS = {"mdbox": "mdbox:~/mdbox", "maildir": "maildir:~/Maildir"}

CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
instance_name = {name}
log_path = {folder}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = {ssl}
{certificate}
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_username_chars =
auth_master_user_separator = *
auth_cache_size = 0
default_login_user = {login_user}
default_internal_user = {login_user}
default_internal_group = {login_group}
passdb {{
  driver = static
  master = yes
  args = password={password}
  username_filter = {admin}
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={folder}/home/%u
}}
mail_location = {location}
mail_fsync = {fsync}
# With it Dovecot 2.3 does not list a folder that was made within a second of another change, even to who made it.
mailbox_list_index = no
first_valid_uid = 1
first_valid_gid = 1
mail_max_userip_connections = 64
mail_attribute_dict = file:%h/dovecot-attributes
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
  }}
  service_count = 0
  chroot =
}}
service auth {{
  client_limit = 2000
}}
service imap {{
  service_count = 64
  process_min_avail = 2
}}
service doveadm {{
  inet_listener {{
    port = {doveadm_port}
  }}
}}
doveadm_password = secret
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
namespace inbox {{
  inbox = yes
  {namespace}
}}
{more}
"""


@attrs.frozen
class Dovecot:
    """One that runs."""

    folder: Path
    mail_format: str
    port: int
    tls_port: int
    doveadm_port: int
    pid: int

    @property
    def separator(self) -> str:
        return "." if self.mail_format == "maildir" else "/"

    def url(self, *, user: str = "{address}", tls: bool = False, **more: str) -> str:
        """How moverq finds it: an administrator logs in for each user."""
        given = {"user": user, "password-file": str(self.folder / "password"), **more}
        query = "&".join(f"{name}={quote(value)}" for name, value in given.items())
        if tls:
            return f"imaps://{ADMIN}@localhost:{self.tls_port}/?{query}&ca-file={self.folder / 'tls.pem'}"
        return f"imap://{ADMIN}@127.0.0.1:{self.port}/?tls=none&{query}"

    def login(self, user: str) -> imaplib.IMAP4:
        """A mail client that is not ours."""
        client = imaplib.IMAP4("127.0.0.1", self.port)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.login(user, PASSWORD)
        return client

    def home(self, user: str) -> Path:
        return self.folder / "home" / user

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        for _ in range(200):
            if not Path(f"/proc/{self.pid}").exists():
                break
            time.sleep(0.01)

    def log(self) -> str:
        return (self.folder / "dovecot.log").read_text(errors="replace")


def start_dovecot(
    mail_format: str = "mdbox",
    *,
    name: str = "test",
    namespace: str = "",
    fsync: str = "never",
    folder: Path | None = None,
    more: str = "",
) -> Dovecot:
    """A Dovecot is up. `stop` it. Skips the test, or fails it, where there is none.

    more: the end of its configuration; `{folder}` in it is its folder.
    """
    program = required("dovecot")
    if os.geteuid() != 0:
        missing("dovecot", "as set up here it starts as root alone")
    place = Path(tempfile.mkdtemp(prefix="moverq-dovecot-")) if folder is None else folder
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    for inner in ("run", "state", "home"):
        (place / inner).mkdir(exist_ok=True)
    os.chown(place / "home", UID, UID)
    (place / "password").write_text(PASSWORD + "\n")
    _certificate(place)
    ports = free_ports(3)
    configuration = CONFIGURATION.format(
        folder=place,
        name=f"{name}-{mail_format}",
        ssl="yes",
        certificate=f"ssl_cert = <{place}/tls.pem\nssl_key = <{place}/tls.key",
        password=PASSWORD,
        admin=ADMIN,
        uid=UID,
        location=FORMATS[mail_format],
        fsync=fsync,
        port=ports[0],
        tls_port=ports[1],
        doveadm_port=ports[2],
        login_user="dovenull",
        login_group="dovenull",
        namespace=namespace,
        more=more.replace("{folder}", str(place)),
    )
    (place / "dovecot.conf").write_text(configuration)
    # No pipe: the daemon would hold it open, and whoever reads it would wait for ever.
    subprocess.run([program, "-c", str(place / "dovecot.conf")], check=True, stdout=subprocess.DEVNULL)
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[0]), 1) as probe:
            if probe.recv(4).startswith(b"* OK"):
                break
        time.sleep(0.01)
    else:
        raise AssertionError((place / "dovecot.log").read_text())
    pid = int((place / "run" / "master.pid").read_text())
    return Dovecot(place, mail_format, *ports, pid)


@functools.cache
def shared_dovecot(mail_format: str) -> Dovecot:
    """This process's server of that format, stopped when the process ends."""
    server = start_dovecot(mail_format)

    def end() -> None:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)

    atexit.register(end)
    return server


def _certificate(place: Path) -> None:
    """Of its own authority, for localhost."""
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(place / "tls.key"), "-out", str(place / "tls.pem"))
    subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *files),
        check=True,
        capture_output=True,
    )
