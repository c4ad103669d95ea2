"""A real Postfix of its own: configuration, queue and log in one folder, on a loopback port, stopped by its pid.

    real_postfix(folder, transport="lmtp:inet:127.0.0.1:2424") ── SMTP at `port` ── queue ── LMTP ── ours

It takes mail for example.org, hands it to `transport`, and tries deferred mail again every second.
"""

import os
import pwd
import shutil
import signal
import smtplib
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from tests.support.servers import required_root

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mta.example.org
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = example.org
virtual_mailbox_maps = static:all
virtual_transport = {transport}
{more}
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
lmtp_destination_recipient_limit = 50
smtputf8_enable = yes
"""

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
proxymap  unix - - n - - proxymap
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

LOOK_AGAIN_S = 10
QUEUES = ("maildrop", "incoming", "active", "deferred", "hold")


@attrs.frozen
class Postfix:
    """A running one."""

    folder: Path
    port: int

    def submit(self, sender: str, recipients: list[str], message: bytes) -> None:
        """The message is in Postfix's queue, or an `smtplib` error says why not."""
        with smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.example.net") as client:
            client.sendmail(sender, recipients, message)

    def queued(self) -> int:
        """Messages that it still has."""
        return sum(len(files) for name in QUEUES for _, _, files in os.walk(self.folder / "queue" / name))

    def wait_until_empty(self, seconds: float) -> None:
        """It has nothing any more.

        Its queue manager is started anew now and then. A message that comes to its next try while the agent of the last
        one still has it is "skipped, still being delivered", and lies until then: with tries a second apart that
        happens.
        """
        deadline = time.monotonic() + seconds
        look_again = time.monotonic() + LOOK_AGAIN_S
        while self.queued():
            now = time.monotonic()
            assert now < deadline, self.log()[-5000:]
            if now >= look_again:
                self.signal_master(signal.SIGHUP)
                look_again = now + LOOK_AGAIN_S
            time.sleep(0.1)

    def signal_master(self, number: signal.Signals) -> None:
        os.kill(int((self.folder / "queue" / "pid" / "master.pid").read_text()), number)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def real_postfix(folder: Path, *, transport: str, more: str = "") -> Iterator[Postfix]:
    """Running, in `folder` (which its unprivileged parts can reach), and gone at the end.

    more: further lines of its main.cf.
    """
    program = required_root("postfix")
    port = free_port()
    etc = folder / "etc"
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir(parents=True)
    os.chown(folder / "data", pwd.getpwnam("postfix").pw_uid, -1)
    filled = {
        "main.cf": MAIN.format(folder=folder, transport=transport, more=more),
        "master.cf": MASTER.format(port=port),
    }
    for name, text in filled.items():
        (etc / name).write_text(text)
    shutil.copy("/etc/postfix/dynamicmaps.cf", etc)  # where it learns to ask an LDAP server
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [program, "-c", str(etc), "start-fg"], stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as greeted:
                if greeted.recv(3) == b"220":
                    break
            assert process.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < deadline, "postfix does not answer"
            time.sleep(0.05)
        yield Postfix(folder, port)
    finally:
        with suppress(FileNotFoundError, ProcessLookupError):
            # The master, which ends its own; `process` is the script that waits for it.
            Postfix(folder, port).signal_master(signal.SIGTERM)
        process.wait(timeout=30)
