"""The tools, each as its user would call it: a process that copies, and once more for what changed since.

- moverq        `moverq move new … --suspend-when-ready --wait`: copied, followed and compared; the next look is `moverq
                worker --drain`; `moverq move resume --wait` is the cutover.
- mbsync        with CopyArrivalDate and Expunge, one way.
- dsync-pull    `doveadm backup -R` over TCP: Dovecot's own protocol, an administrator on both sides, the target pulls.
- dsync-push    the same from the source.
- imapsync      with `--useuid --delete2`, where the environment's IMAPSYNC or the path has it.
- raw-1, raw-4  see `raw`: a bound, no tool.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.support.dovecot import Dovecot
from tests.support.imap_place import PASSWORD


@attrs.frozen(kw_only=True)
class Used:
    """What a process used."""

    seconds: float
    cpu_s: float
    rss_mib: float
    out: str


@attrs.frozen(kw_only=True)
class Site:
    """Two servers, what lies between them and the client, and a folder for what the tools keep."""

    source: Dovecot
    target: Dovecot
    source_port: int
    target_port: int
    tls: bool
    work: Path

    def urls(self) -> tuple[str, str]:
        """For moverq and raw."""
        found = []
        for server, port in ((self.source, self.source_port), (self.target, self.target_port)):
            own = server.tls_port if self.tls else server.port
            found.append(server.url(user="{local}", tls=self.tls).replace(f":{own}/", f":{port}/"))
        return found[0], found[1]


class NotHere(Exception):
    """The tool is not installed, or does not go over this link."""


def run(words: Sequence[str], *, environment: dict[str, str] | None = None, fine: Sequence[int] = (0,)) -> Used:
    """The process has ended well."""
    with open(os.devnull, "rb") as nothing:
        begun = time.perf_counter()
        process = subprocess.Popen(
            words,
            env={**os.environ, **(environment or {})},
            stdin=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        peak = _Peak(process.pid)
        peak.start()
        out = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    peak.join()
    assert process.returncode in fine, (words, process.returncode, out[-4000:])
    return Used(seconds=seconds, cpu_s=usage.ru_utime + usage.ru_stime, rss_mib=peak.mib, out=out)


class _Peak(threading.Thread):
    """The peak memory of a process, asked of it until it ends. (What `wait4` says of a child begins with what its
    parent held when it was made.)"""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.mib = 0.0

    def run(self) -> None:
        while True:
            try:
                said = re.search(r"VmHWM:\s+(\d+) kB", self._status.read_text())
            except OSError:
                return
            if said is None:
                return  # it has ended, and waits to be waited for
            self.mib = int(said[1]) / 1024
            time.sleep(0.01)


@attrs.frozen
class Moverq:
    site: Site
    user: str

    def _run(self, *words: str) -> Used:
        # An installed moverq has its modules compiled; so has this one after its first run.
        environment = {"MOVERQ_ROOT": str(self.site.work / f"root-{self.user}"), "PYTHONDONTWRITEBYTECODE": ""}
        return run((sys.executable, "-m", "moverq", *words), environment=environment)

    def start_up(self) -> Used:
        """What every call costs: the interpreter, the modules, the root opened, an answer."""
        return self._run("move", "list")

    def prepare(self) -> None:
        self._run("init")

    def copy(self) -> Used:
        source, target = self.site.urls()
        address = f"{self.user}@example.org"
        return self._run(
            "move", "new", address, "--wait", "--suspend-when-ready", "--json", "--from", source, "--to", target
        )

    def again(self) -> Used:
        return self._run("worker", "--drain")

    def cut_over(self) -> Used:
        return self._run("move", "resume", f"{self.user}@example.org", "--wait", "--json")

    def lock_ms(self, cut_over: Used) -> float:
        said = json.loads(cut_over.out[cut_over.out.index("{") :])
        return float(said["lock_ms"])


MBSYNC = """
IMAPAccount {side}
Host {host}
Port {port}
User {user}
Pass {password}
AuthMechs LOGIN
SSLType {tls}
{certificate}

IMAPStore {side}
Account {side}
"""


@attrs.frozen
class Mbsync:
    site: Site
    user: str

    def prepare(self) -> None:
        site, state = self.site, self.site.work / f"mbsync-{self.user}"
        state.mkdir()
        text = "".join(
            MBSYNC.format(
                side=side,
                host="localhost" if site.tls else "127.0.0.1",
                port=port,
                user=self.user,
                password=PASSWORD,
                tls="IMAPS" if site.tls else "None",
                certificate=f"CertificateFile {server.folder / 'tls.pem'}" if site.tls else "",
            )
            for side, server, port in (
                ("far", site.source, site.source_port),
                ("near", site.target, site.target_port),
            )
        )
        text += "\nChannel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\nSync Pull\nCopyArrivalDate yes\n"
        text += f"Expunge Near\nSyncState {state}/\n"
        (state / "mbsyncrc").write_text(text)

    def copy(self) -> Used:
        return run(("mbsync", "-q", "-c", str(self.site.work / f"mbsync-{self.user}" / "mbsyncrc"), "all"), fine=(0, 1))

    again = copy


@attrs.frozen
class Dsync:
    site: Site
    user: str
    pulls: bool

    def prepare(self) -> None:
        if self.site.tls:
            raise NotHere("dsync over TCP is measured without TLS alone")

    def copy(self) -> Used:
        site = self.site
        here, there_port = (site.target, site.source_port) if self.pulls else (site.source, site.target_port)
        words = ("doveadm", "-c", str(here.folder / "dovecot.conf"), "backup", *(("-R",) if self.pulls else ()))
        return run((*words, "-u", self.user, f"tcp:127.0.0.1:{there_port}"), fine=(0, 2))

    again = copy


@attrs.frozen
class Imapsync:
    site: Site
    user: str

    @staticmethod
    def program() -> str | None:
        return os.environ.get("IMAPSYNC") or shutil.which("imapsync")

    def prepare(self) -> None:
        if self.program() is None:
            raise NotHere("imapsync is not installed, and IMAPSYNC does not name it")

    def copy(self) -> Used:
        site, program = self.site, self.program()
        assert program is not None
        words = [program, "--nolog", "--noreleasecheck", "--useuid", "--delete2", "--nofoldersizes"]
        words += ["--nofoldersizesatend", "--subscribeall", "--delete2folders"]
        for number, server, port in ((1, site.source, site.source_port), (2, site.target, site.target_port)):
            words += [f"--host{number}", "localhost" if site.tls else "127.0.0.1", f"--port{number}", str(port)]
            words += [f"--user{number}", self.user, f"--password{number}", PASSWORD]
            words += [f"--{'ssl' if site.tls else 'nossl'}{number}"] + ([] if site.tls else [f"--notls{number}"])
            if site.tls:
                words += [f"--sslargs{number}", f"SSL_ca_file={server.folder / 'tls.pem'}"]
        return run(words)

    again = copy


@attrs.frozen
class Raw:
    site: Site
    user: str
    connections: int

    def prepare(self) -> None:
        pass

    def copy(self) -> Used:
        urls = self.site.urls()
        used = run((sys.executable, "-m", "bench.imap.raw", *urls, self.user, str(self.connections)))
        seconds, cpu_us = map(float, used.out.split())
        return attrs.evolve(used, seconds=seconds, cpu_s=cpu_us / 1e6)


Tool = Moverq | Mbsync | Dsync | Imapsync | Raw
TOOLS = ("moverq", "mbsync", "dsync-pull", "dsync-push", "imapsync", "raw-1", "raw-4")


def make(name: str, site: Site, user: str) -> Tool:
    match name:
        case "moverq":
            return Moverq(site, user)
        case "mbsync":
            return Mbsync(site, user)
        case "dsync-pull" | "dsync-push":
            return Dsync(site, user, name == "dsync-pull")
        case "imapsync":
            return Imapsync(site, user)
        case "raw-1" | "raw-4":
            return Raw(site, user, int(name[-1]))
    raise ValueError(name)
