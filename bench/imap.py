"""How fast is a mailbox moved between two real IMAP servers, beside the tools that administrators use today?

Two Dovecots on loopback, mdbox or Maildir, with `mail_fsync` as a site has it (optimized). A deterministic mailbox:
log-normal sizes with a median of 12 KiB, ten years of dates, flags and keywords, equal copies, mail without Message-ID.
In turn, in one run, into fresh users of the target (never deleting a tree just before a run: ext4 pays for that later):

- moverq     `moverq move new … --wait`, a process of its own, to the end of the cutover: copied, followed, locked,
             verified, switched. Its start-up is in the time.
- mbsync     `mbsync` with CopyArrivalDate, one way.
- dsync      `doveadm backup -R` over TCP, the target pulling: Dovecot's own protocol, an administrator on both sides.
- raw        the servers alone: pipelined FETCH into MULTIAPPEND of 50 by our wire code, no mirror, no ledger.

Estimated before measuring: the target's MULTIAPPEND is the bound (5,500 messages a second on mdbox, 1,750 on Maildir
with one connection); ours adds about 100 µs of CPU a message on one of two cores, beside it.

    python -m bench.imap [--messages 2000] [--format mdbox|maildir] [--rounds 3] [--save]
"""

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from bench.common import Figure, tell
from moverq.endpoints.imap.connection import Connection, Refused, mailbox_word
from moverq.endpoints.imap.listing import flag_words
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.reading import Reading
from moverq.endpoints.imap.settings import parse
from moverq.endpoints.imap.wire import Literal, Response, date_words
from tests.support.dovecot import PASSWORD, Dovecot, start_dovecot

USER = "bench"
FLAGS = ((0, ()), (1, ()), (1, ("$Forwarded",)), (3, ()), (5, ("work",)), (0, ("later", "work")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--format", choices=("mdbox", "maildir"), default="mdbox")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", default="moverq,mbsync,dsync,raw")
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="moverq-bench-imap-"))
    work.chmod(0o755)
    source = start_dovecot(asked.format, name="source", fsync="optimized", folder=work / "source")
    target = start_dovecot(asked.format, name="target", fsync="optimized", folder=work / "target")
    try:
        folders = 10 if asked.messages <= 5000 else 40
        bytes_ = trio.run(fill, source, asked.messages, folders)
        print(f"{asked.messages} messages, {bytes_ / 1e6:.0f} MB, {folders} folders", file=sys.stderr)
        tools: dict[str, Callable[[str], None]] = {
            "moverq": lambda user: moverq(work, source, target, user),
            "mbsync": lambda user: mbsync(work, source, target, user),
            "dsync": lambda user: dsync(source, target, user),
            "raw": lambda user: trio.run(raw, source, target, user, folders),
        }
        seconds: dict[str, list[float]] = {name: [] for name in asked.tools.split(",")}
        cpu: dict[str, list[float]] = {name: [] for name in seconds}
        for round_ in range(asked.rounds):
            for name in seconds:
                user = f"{name}{round_}"
                clone(source, user)
                os.sync()
                before, begun = cpu_s(), time.perf_counter()
                tools[name](user)
                seconds[name].append(time.perf_counter() - begun)
                cpu[name].append((cpu_s() - before) / asked.messages * 1e6)
                print(f"{name}: {seconds[name][-1]:.2f} s, {cpu[name][-1]:.0f} us/message", file=sys.stderr)
                found = count(target, user)
                assert found == asked.messages, f"{name} brought {found} of {asked.messages} messages"
        figures = [Figure(f"{name}, whole", "s", tuple(values)) for name, values in seconds.items()]
        figures += [Figure(f"{name}, client CPU", "us/message", tuple(values)) for name, values in cpu.items()]
        median = {figure.name.removesuffix(", whole"): figure.median for figure in figures}
        ratios = {f"x {name}": round(median[name] / median["moverq"], 2) for name in seconds if name != "moverq"}
        extra = {"messages": asked.messages, "MB": round(bytes_ / 1e6), "format": asked.format, "ratios": ratios}
        tell("imap", figures, extra=extra, save=asked.save)
    finally:
        source.stop()
        target.stop()
        shutil.rmtree(work, ignore_errors=True)


# ---- the mailbox


async def fill(server: Dovecot, messages: int, folders: int) -> int:
    """The mailbox of `USER`, by MULTIAPPEND."""
    rng = random.Random(20_260_701)
    names = [b"INBOX", *(b"Folder %d" % n if n % 3 else b"Archive/&AOQ-lter %d" % n for n in range(1, folders))]
    if server.mail_format == "maildir":
        names = [name.replace(b"/", b".") for name in names]
    text = bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz \n") for _ in range(1 << 20)).replace(b"\n", b"\r\n")
    total = 0
    connection = await connect(parse(server.url(user=USER)), USER, answer_s=60)
    try:
        for name in names[1:]:
            await connection.run(b"CREATE ", mailbox_word(name))
            await connection.run(b"SUBSCRIBE ", mailbox_word(name))
        share = messages // folders
        for at, name in enumerate(names):
            here = share if at else messages - share * (folders - 1)
            for begun in range(0, here, 50):
                pieces: list[bytes] = [b"APPEND ", mailbox_word(name)]
                for number in range(begun, min(here, begun + 50)):
                    size = min(1 << 20, int(rng.lognormvariate(9.4, 1.2)))
                    offset = rng.randrange(len(text) - size)
                    head = b"" if rng.random() < 0.02 else b"Message-ID: <%d.%d@bench>\r\n" % (at, number)
                    body = text[offset : offset + size].replace(b"\r", b"").replace(b"\n", b"\r\n")
                    content = head + b"Subject: %d\r\n\r\n" % number + body + b"\r\n"
                    flags, keywords = rng.choice(FLAGS)
                    date = date_words(1_450_000_000_000 + rng.randrange(315_000_000) * 1000)
                    pieces += [b" (" + flag_words(flags, keywords) + b") " + date + b" ", Literal(content)]
                    total += len(content)
                await connection.run(*pieces)
    finally:
        await connection.aclose()
    return total


def clone(server: Dovecot, user: str) -> None:
    """The source's mailbox once more, for one run of one tool."""
    shutil.copytree(server.home(USER), server.home(user))
    for path in [server.home(user), *server.home(user).rglob("*")]:
        os.chown(path, 5000, 5000)


def count(server: Dovecot, user: str) -> int:
    client = server.login(user)
    try:
        total = 0
        for line in client.list()[1]:
            assert isinstance(line, bytes)
            name = line.decode().split('" ', 1)[1]
            if "\\Noselect" not in line.decode():
                total += int(client.status(name, "(MESSAGES)")[1][0].split()[-1].rstrip(b")"))
        return total
    finally:
        client.shutdown()


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime + own.ru_utime + own.ru_stime


# ---- the tools


def run(*words: str, environment: dict[str, str] | None = None, fine: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(words, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False)
    assert done.returncode in fine, (words, done.stdout, done.stderr)


def moverq(work: Path, source: Dovecot, target: Dovecot, user: str) -> None:
    root = work / f"root-{user}"
    environment = {"MOVERQ_ROOT": str(root)}
    run(sys.executable, "-m", "moverq", "init", environment=environment)
    begun = time.perf_counter()
    run(
        *(sys.executable, "-m", "moverq", "move", "new", f"{user}@example.org", "--wait"),
        *("--from", source.url(user="{local}"), "--to", target.url(user="{local}")),
        environment=environment,
    )
    print(f"  moverq move new: {time.perf_counter() - begun:.2f} s", file=sys.stderr)


MBSYNC = """
IMAPAccount {side}
Host 127.0.0.1
Port {port}
User {user}
Pass {password}
AuthMechs LOGIN
SSLType None

IMAPStore {side}
Account {side}
"""


def mbsync(work: Path, source: Dovecot, target: Dovecot, user: str) -> None:
    state = work / f"mbsync-{user}"
    state.mkdir()
    text = "".join(
        MBSYNC.format(side=side, port=server.port, user=user, password=PASSWORD)
        for side, server in (("far", source), ("near", target))
    )
    text += "\nChannel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\nSync Pull\nCopyArrivalDate yes\n"
    text += f"SyncState {state}/\n"
    (state / "mbsyncrc").write_text(text)
    run("mbsync", "-q", "-c", str(state / "mbsyncrc"), "all")


def dsync(source: Dovecot, target: Dovecot, user: str) -> None:
    configuration = str(target.folder / "dovecot.conf")
    run("doveadm", "-c", configuration, "backup", "-R", "-u", user, f"tcp:127.0.0.1:{source.doveadm_port}", fine=(0, 2))


async def raw(source: Dovecot, target: Dovecot, user: str, folders: int) -> None:
    """FETCH and MULTIAPPEND, overlapped, and nothing else."""
    one = await connect(parse(source.url()), user, answer_s=60)
    other = await connect(parse(target.url()), user, answer_s=60)
    names: list[bytes] = []
    await one.run(
        b'LIST "" "*"', take=lambda response: names.append(response.head.split(b' "', 1)[1].split(b'" ', 1)[1])
    )
    send, receive = trio.open_memory_channel[tuple[bytes, dict[int, bytes]]](2)
    # In the nursery: who reads, and who writes what was read.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, one, [name.strip(b'"') for name in names], send)
        nursery.start_soon(_write, other, receive)
    await one.aclose()
    await other.aclose()


async def _read(
    connection: Connection, names: list[bytes], send: "trio.MemorySendChannel[tuple[bytes, dict[int, bytes]]]"
) -> None:
    async with send:
        for name in names:
            found: list[int] = []
            try:
                await connection.run(b"EXAMINE ", mailbox_word(name))
            except Refused:
                continue  # it only holds folders
            await connection.run(b"UID SEARCH ALL", take=partial(_note_found, found))
            for at in range(0, len(found), 200):
                reading = Reading(connection, found[at : at + 200])
                await reading.begin(name)
                await send.send((name, await reading.end()))


def _note_found(found: list[int], response: Response) -> None:
    found.extend(map(int, response.head.split()[2:]))


async def _write(connection: Connection, receive: "trio.MemoryReceiveChannel[tuple[bytes, dict[int, bytes]]]") -> None:
    made = {b"INBOX"}
    async for name, bodies in receive:
        if name not in made:
            made.add(name)
            await connection.run(b"CREATE ", mailbox_word(name))
        contents = list(bodies.values())
        commands = []
        for at in range(0, len(contents), 50):
            pieces: list[bytes] = [b"APPEND ", mailbox_word(name)]
            for content in contents[at : at + 50]:
                pieces += [b' () "01-Jan-2020 00:00:00 +0000" ', Literal(content)]
            commands.append(await connection.start(*pieces))
        for command in commands:
            await connection.done(command)


if __name__ == "__main__":
    main()
