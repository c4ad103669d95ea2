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
import subprocess
import tempfile
import time
from pathlib import Path

import attrs

from tests.support.imap_place import ADMIN, PASSWORD, ImapPlace, prepare, wait_for_greeting
from tests.support.ports import free_ports
from tests.support.servers import missing, required

UID = 5000
FORMATS = {"mdbox": "mdbox:~/mdbox", "maildir": "maildir:~/Maildir", "mbox": "mbox:~/mail:INBOX=~/inbox"}

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
class Dovecot(ImapPlace):
    """One that runs."""

    mail_format: str
    doveadm_port: int
    pid: int

    @property
    def separator(self) -> str:
        return "." if self.mail_format == "maildir" else "/"

    def login(self, user: str) -> imaplib.IMAP4:
        """A mail client that is not ours."""
        client = self.connected()
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
    prepare(place)
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
    wait_for_greeting(ports[0], is_up=lambda: True, said=place / "dovecot.log")
    pid = int((place / "run" / "master.pid").read_text())
    return Dovecot(place, *ports[:2], mail_format, ports[2], pid)


@functools.cache
def shared_dovecot(mail_format: str) -> Dovecot:
    """This process's server of that format, stopped when the process ends."""
    server = start_dovecot(mail_format)

    def end() -> None:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)

    atexit.register(end)
    return server
