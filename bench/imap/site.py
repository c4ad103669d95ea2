"""Two real IMAP servers on loopback, and what lies between them and who moves mail from one to the other."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.imap.tools import Site
from tests.support.dovecot import Dovecot, start_dovecot

LINKS = {"plain": None, "tls": None, "rtt0": 0, "rtt10": 10, "rtt40": 40}
"""The delay of a proxy in ms, where there is one."""


@contextmanager
def servers(format_: str, folder: Path | None = None) -> Iterator[tuple[Path, Dovecot, Dovecot]]:
    """A folder, and two Dovecots in it, with `mail_fsync` as a site has it; in `folder`, which others can enter, or
    among temporary ones."""
    work = Path(tempfile.mkdtemp(prefix="moverq-bench-imap-", dir=folder))
    work.chmod(0o755)
    started: list[Dovecot] = []
    try:
        started += (
            start_dovecot(format_, name=name, fsync="optimized", folder=work / name) for name in ("source", "target")
        )
        yield work, started[0], started[1]
    finally:
        for server in started:
            server.stop()
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def linked(link: str, source: Dovecot, target: Dovecot, work: Path, tools: Sequence[str]) -> Iterator[dict[bool, Site]]:
    """The site as IMAP clients see it, and (True) as dsync does: by the doveadm ports."""
    delay_ms, tls = LINKS[link], link == "tls"
    proxies: list[subprocess.Popen[str]] = []

    def port_to(port: int) -> int:
        if delay_ms is None:
            return port
        command = (sys.executable, "-m", "bench.imap.delay", str(port), str(delay_ms))
        proxies.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert proxies[-1].stdout is not None
        return int(proxies[-1].stdout.readline())

    try:
        sites = {}
        for is_dsync in (False, True):
            if is_dsync and not any(name.startswith("dsync") for name in tools):
                continue
            ports = [
                port_to(server.doveadm_port if is_dsync else server.tls_port if tls else server.port)
                for server in (source, target)
            ]
            sites[is_dsync] = Site(
                source=source, target=target, source_port=ports[0], target_port=ports[1], tls=tls, work=work
            )
        yield sites
    finally:
        for proxy in proxies:
            proxy.kill()
            proxy.wait()
