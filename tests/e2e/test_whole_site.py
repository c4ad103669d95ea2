"""A whole site at work: a Dovecot proxy and a Postfix that look homes up in one LDAP directory, two Dovecot backends, a
user at his mail client, deliveries all the time, and `moverq move new … --from imap://… --to imap://…` on top of it.

    client ─▶ proxy ─┐                         ┌─▶ one (127.0.0.2)
                     ├─ slapd: mailHost ◀─ moverq ── IMAP ─▶ both
    MTA ──▶ Postfix ─┘                         └─▶ two (127.0.0.3)

The lock command keeps the user out at the proxy and deliveries at the backend's LMTP; what it does to the mail is
nothing. After the move everything that the user did and everything that Postfix took is at the new home, once.
"""

import imaplib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote

import attrs
import pytest
import trio

from moverq.root import init_root
from tests.support.cli import There
from tests.support.dovecot_proxy import PASSWORD, real_dovecot
from tests.support.ports import free_ports
from tests.support.postfix import Postfix, real_postfix
from tests.support.servers import required
from tests.support.slapd import real_slapd
from tests.test_docs import LDAP, blocks

pytestmark = pytest.mark.slow

ADA = "ada@example.org"
ONE, TWO = "127.0.0.2", "127.0.0.3"
EACH = 15
"""Messages that come before, while and after the mailbox moves."""

BACKEND = """
auth_master_user_separator = *
passdb {
  driver = static
  master = yes
  args = password=secret
  username_filter = mover
}
userdb {
  driver = passwd-file
  args = {folder}/shut-for-%s
}
service lmtp {
  inet_listener lmtp {
    port = LMTP
  }
}
"""
"""Deliveries to who is in `shut-for-lmtp` are put off; his IMAP logins go on."""
PROXY = """
passdb {
  driver = passwd-file
  deny = yes
  args = {folder}/shut
}
"""
LOCK = """#!/bin/sh -e
# $1: the user, $2: the folder of the backend that he is to be kept out of
echo "$1:::::::tempfail=yes" > "$2/shut-for-lmtp"
echo "$1" > PROXY/shut
doveadm -c PROXY/dovecot.conf proxy kick "$1" || true
sleep 0.2  # who was let in by the proxy just before
doveadm -c PROXY/dovecot.conf proxy kick "$1" || true
"""
RELEASE = """#!/bin/sh -e
: > "$2/shut-for-lmtp"
: > PROXY/shut
"""


@attrs.define
class Client:
    """A user at a mail client: he writes, flags, moves and deletes, and begins again where a connection is lost."""

    port: int
    stop: threading.Event = attrs.Factory(threading.Event)
    wanted: dict[str, tuple[str, str]] = attrs.Factory(dict)
    """By subject, what he has been told: the folder, and the flags."""
    gone: set[str] = attrs.Factory(set)
    reconnected: int = 0
    _client: imaplib.IMAP4 | None = None

    def work(self) -> None:
        for number in count():
            if self.stop.is_set():
                break
            subject = f"own-{number}"
            self.do(lambda client, subject=subject: self._write(client, subject))
            if number % 3 == 1:
                self.do(lambda client, n=number: self._move(client, f"own-{n - 1}"))
            if number % 5 == 4:
                self.do(lambda client, n=number: self._delete(client, f"own-{n - 2}"))
        if self._client is not None:
            self._client.shutdown()

    def do(self, act) -> None:  # type: ignore[no-untyped-def]
        """Until it has been done; each act can tell whether an earlier try had its effect."""
        while True:
            try:
                if self._client is None:
                    client = imaplib.IMAP4("127.0.0.1", self.port, timeout=30)
                    self._client = client
                    client.login(ADA, PASSWORD)
                    self.reconnected += 1
                act(self._client)
                return
            except (imaplib.IMAP4.error, OSError):
                if self._client is not None:
                    with suppress(OSError, imaplib.IMAP4.error):
                        self._client.shutdown()
                self._client = None
                self.stop.wait(0.05)

    def _find(self, client: imaplib.IMAP4, folder: str, subject: str) -> str | None:
        _ok(client.select(folder))
        uids = _ok(client.uid("SEARCH", "HEADER", "Message-ID", f"<{subject}@example.org>"))[0].split()
        assert len(uids) <= 1, (folder, subject, uids)
        return uids[0].decode() if uids else None

    def _write(self, client: imaplib.IMAP4, subject: str) -> None:
        if self._find(client, "INBOX", subject) is None:
            text = f"Subject: {subject}\r\nMessage-ID: <{subject}@example.org>\r\n\r\ntext\r\n"
            _ok(client.append("INBOX", "(\\Seen mine)", "", text.encode()))
        self.wanted[subject] = ("INBOX", "\\Seen mine")

    def _move(self, client: imaplib.IMAP4, subject: str) -> None:
        if subject in self.gone:
            return
        uid = self._find(client, "INBOX", subject)
        if uid is not None:
            _ok(client.uid("MOVE", uid, "Kept"))
        self.wanted[subject] = ("Kept", "\\Seen mine")

    def _delete(self, client: imaplib.IMAP4, subject: str) -> None:
        folder, _ = self.wanted[subject]
        uid = self._find(client, folder, subject)
        if uid is not None:
            _ok(client.uid("STORE", uid, "+FLAGS", "(\\Deleted)"))
            _ok(client.uid("EXPUNGE", uid))
        del self.wanted[subject]
        self.gone.add(subject)


def _ok(answer):  # type: ignore[no-untyped-def]
    if answer[0] != "OK":
        raise imaplib.IMAP4.error(repr(answer))
    return answer[1]


def mail_at(address: str, port: int) -> dict[str, Counter[str]]:
    """Subjects by folder, as the user's own login at that backend sees them."""
    found: dict[str, Counter[str]] = {}
    with imaplib.IMAP4(address, port) as client:
        client.login(ADA, PASSWORD)
        for folder in ("INBOX", "Kept"):
            if client.select(folder, readonly=True)[0] != "OK":
                continue
            parts = client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
            text = b"".join(part[1] for part in parts if isinstance(part, tuple))
            found[folder] = Counter(subject.decode() for subject in re.findall(rb"Subject: (\S+)", text))
    return found


@attrs.frozen
class Site:
    root: Path
    urls: tuple[str, str]
    imap_port: int
    proxy_port: int
    postfix: Postfix


@pytest.fixture
def site(public: Path, tmp_path: Path) -> Iterator[Site]:
    for name in ("dovecot with LDAP", "dovecot with LMTP", "postmap with LDAP"):
        required(name)
    imap_port, lmtp_port, proxy_port = free_ports(3)
    (transport,) = blocks(LDAP, "postfix-ldap")
    (lookup,) = blocks(LDAP, "dovecot-ldap")
    with ExitStack() as stack:
        slapd = stack.enter_context(real_slapd(public / "slapd"))
        for name, text in (("transport", transport.replace(":24", f":{lmtp_port}")), ("lookup", lookup)):
            (public / f"{name}.cf").write_text(text.replace("ldap://ldap1.example.org", slapd.uri))
        backend = BACKEND.replace("LMTP", str(lmtp_port))
        for name, address in (("one", ONE), ("two", TWO)):
            running = real_dovecot(public / name, address=address, port=imap_port, protocols="imap lmtp", more=backend)
            stack.enter_context(running)
            for service in ("lmtp", "imap"):
                (public / name / f"shut-for-{service}").touch()
        ldap = (public / "lookup.cf").read_text().replace("=proxy=y", f"=proxy=y, =port={imap_port}")
        stack.enter_context(real_dovecot(public / "proxy", address="127.0.0.1", port=proxy_port, ldap=ldap, more=PROXY))
        (public / "proxy" / "shut").touch()
        postfix = stack.enter_context(
            real_postfix(
                public / "postfix",
                transport="error:no home",
                more=f"transport_maps = ldap:{public}/transport.cf",
            )
        )
        (tmp_path / "password").write_text("secret\n")
        urls = []
        for name, address in (("one", ONE), ("two", TWO)):
            more = f"tls=none&password-file={tmp_path}/password"
            for verb, script in (("lock", LOCK), ("release", RELEASE)):
                file = public / f"{verb}.sh"
                file.write_text(script.replace("PROXY", str(public / "proxy")))
                file.chmod(0o755)
                more += f"&{verb}-command=" + quote(f"{file} {{user}} {public / name}")
            urls.append(f"imap://mover@{address}:{imap_port}/?{more}")
        (tmp_path / "ldap.toml").write_text(slapd.toml())
        trio.run(lambda: init_root(tmp_path / "root", directory_settings=tmp_path / "ldap.toml"))
        yield Site(tmp_path / "root", (urls[0], urls[1]), imap_port, proxy_port, postfix)


def test_a_user_at_work_and_his_deliveries_go_on_at_the_new_home(site: Site) -> None:
    """A plain function: everything here is another process, or a thread that waits for one."""
    sent: list[str] = []

    def deliver(name: str) -> None:
        for number in range(EACH):
            subject = f"{name}-{number}"
            text = f"From: eve@example.net\r\nSubject: {subject}\r\n\r\ntext\r\n"
            site.postfix.submit("eve@example.net", [ADA], text.encode())
            sent.append(subject)

    moverq = There(site.root)
    asked = moverq.ok(
        "move", "new", ADA, "--from", site.urls[0], "--to", site.urls[1], "--lock-budget", "20000", "--suspend"
    )
    assert ADA in asked.out
    with imaplib.IMAP4("127.0.0.1", site.proxy_port) as first:
        first.login(ADA, PASSWORD)
        first.create("Kept")
    client = Client(site.proxy_port)
    user = threading.Thread(target=client.work)
    user.start()
    try:
        deliver("before")
        move = moverq.start("move", "resume", ADA, "--wait")
        deliver("while")
        out, err = move.communicate(timeout=120)
        assert move.returncode == 0, (out, err)
        deliver("after")
        seen = len(client.wanted) + len(client.gone)
        while len(client.wanted) + len(client.gone) < seen + 5:
            assert user.is_alive()
            client.stop.wait(0.05)
    finally:
        client.stop.set()
        user.join(60)
    site.postfix.wait_until_empty(60)
    report = moverq.ok("move", "report", ADA).out
    assert "Completed" in report
    assert client.reconnected >= 2, "the lock ends the session, and the next one is at the new home"
    there = mail_at(TWO, site.imap_port)
    wanted: dict[str, Counter[str]] = {"INBOX": Counter(sent), "Kept": Counter()}
    for subject, (folder, _) in client.wanted.items():
        wanted[folder][subject] += 1
    assert there == wanted, report
    late = sorted(client.wanted, key=lambda subject: int(subject[4:]))[-1]
    assert late not in mail_at(ONE, site.imap_port)["INBOX"]
