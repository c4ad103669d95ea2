"""Real Dovecots for one question: which backend does a user's login reach? A proxy, and backends that tell their name.

Each has its configuration and state in a folder of its own, listens on one port of one loopback address (backends on
the same port of different addresses, as on different hosts), and is stopped by its pid.
"""

import imaplib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.servers import required_root

PASSWORD = "secret"

COMMON = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
instance_name = {name}
protocols = {protocols}
listen = {address}
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_max_userip_connections = 0
first_valid_uid = 1
first_valid_gid = 1
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service stats {{
  client_limit = 0
}}
"""

BACKEND = """
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/home/%u
}}
mail_location = maildir:~/Maildir
namespace inbox {{
  inbox = yes
  mailbox "I am {address}" {{
    auto = create
  }}
}}
"""

PROXY = """
passdb {{
  driver = ldap
  args = {folder}/dovecot-ldap.conf.ext
}}
"""


@contextmanager
def real_dovecot(
    folder: Path, *, address: str, port: int, ldap: str | None = None, protocols: str = "imap", more: str = ""
) -> Iterator[None]:
    """A backend or, with `ldap` (what its dovecot-ldap.conf.ext says), a proxy. Running, and gone at the end.

    more: the beginning of its configuration, which is asked before the rest; `{folder}` in it is its folder.
    """
    program = required_root("dovecot" if ldap is None else "dovecot with LDAP")
    owner = pwd.getpwnam("nobody")
    values = {
        "folder": folder,
        "name": folder.name,
        "address": address,
        "port": port,
        "password": PASSWORD,
        "uid": owner.pw_uid,
        "gid": owner.pw_gid,
        "protocols": protocols,
    }
    for name in ("run", "state", "home"):
        (folder / name).mkdir(parents=True)
    os.chown(folder / "home", owner.pw_uid, owner.pw_gid)
    (folder / "dovecot-ldap.conf.ext").write_text(ldap or "")
    (folder / "dovecot.conf").write_text(
        more.replace("{folder}", str(folder)) + (COMMON + (BACKEND if ldap is None else PROXY)).format(**values)
    )
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [program, "-F", "-c", str(folder / "dovecot.conf")], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection((address, port), timeout=5) as greeted:
                if greeted.recv(4) == b"* OK":
                    break
            said = (folder / "out").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def backend_of(user: str, port: int) -> str:
    """The address of the backend that a login at the proxy on this port reaches."""
    with imaplib.IMAP4("127.0.0.1", port) as client:
        client.login(user, PASSWORD)
        _, lines = client.list()
    (name,) = [line.decode().rpartition("I am ")[2].strip('"') for line in lines if b"I am" in line]  # type: ignore[union-attr]
    return name
