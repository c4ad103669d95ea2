"""What real IMAP servers of the tests have in common: where they listen, who administers them, how one comes up."""

import contextlib
import imaplib
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import attrs

PASSWORD = "secret-of-the-tests"
ADMIN = "admin"
UP_S = 10.0


@attrs.frozen
class ImapPlace:
    """A folder with what the server has, and its ports on loopback."""

    folder: Path
    port: int
    tls_port: int

    def url(self, *, user: str = "{address}", tls: bool = False, **more: str) -> str:
        """How moverq finds it: an administrator logs in for each user."""
        given = {"user": user, "password-file": str(self.folder / "password"), **more}
        query = "&".join(f"{name}={quote(value)}" for name, value in given.items())
        if tls:
            return f"imaps://{ADMIN}@localhost:{self.tls_port}/?{query}&ca-file={self.folder / 'tls.pem'}"
        return f"imap://{ADMIN}@127.0.0.1:{self.port}/?tls=none&{query}"

    def connected(self) -> imaplib.IMAP4:
        """A mail client that is not ours, not yet logged in."""
        client = imaplib.IMAP4("127.0.0.1", self.port)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client


def prepare(folder: Path) -> None:
    """The administrator's password, and a certificate for localhost of its own authority."""
    (folder / "password").write_text(PASSWORD + "\n")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.pem"))
    subprocess.run(
        ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *files),
        check=True,
        capture_output=True,
    )


def wait_for_greeting(port: int, *, is_up: Callable[[], bool], said: Path) -> None:
    """The server answers. Fails with what it has `said` where it ended, or takes longer than `UP_S`."""
    end = time.monotonic() + UP_S
    while is_up() and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as probe:
            if probe.recv(4).startswith(b"* OK"):
                return
        time.sleep(0.01)
    raise AssertionError(said.read_text(errors="replace"))
