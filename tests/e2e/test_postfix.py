"""A real Postfix delivers by LMTP: while a mailbox moves, online, back and offline, is locked, and we are killed.

Every message that Postfix took arrives exactly once, to each of its recipients, and none comes back.
`MOVERQ_KILL_LISTENERS=20` for the long run.
"""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import store
from moverq.mailmaker import make_mail
from moverq.root import Root, init_root, open_root
from tests.support.cli import There
from tests.support.mail import lock_mailbox, messages_of, unlock_mailbox
from tests.support.postfix import Postfix, free_port, real_postfix

ADA, BOB, ALIAS = "ada@example.org", "bob@example.org", "lovelace@example.org"
ITEMS = 4000
EACH = 40
"""Messages that one part of the test sends."""
SUBMITTERS = 4
PATIENCE_S = 180
"""Of a machine that is busy with other things; a quiet one needs seconds."""
KILLS = int(os.environ.get("MOVERQ_KILL_LISTENERS", "1"))

pytestmark = pytest.mark.slow


@contextmanager
def lmtp(root: Path, where: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`moverq lmtp`, listening; SIGTERM at the end, if it is still there. Its log is a file: a pipe would fill up."""
    with (root / "lmtp.log").open("ab") as log:
        words = ("lmtp", "--listen", where, "--lock-wait", "0s", "--socket-mode", "666")
        process = There(root).start(*words, stderr=log)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().decode() == f"LMTP at {where}\n", (root / "lmtp.log").read_text()
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
        said = (root / "lmtp.log").read_text()
        assert process.returncode in (0, -signal.SIGKILL), said
        assert "bug" not in said


async def submit(postfix: Postfix, name: str, sent: list[str]) -> None:
    """Messages to one, to both, and to one under two names; `sent` has what Postfix took."""
    numbers = iter(range(EACH))

    async def some() -> None:
        for number in numbers:
            subject = f"{name}-{number}"
            to = [[ADA], [ADA, BOB], [ALIAS, ADA], [BOB]][number % 4]
            message = f"From: eve@example.net\r\nSubject: {subject}\r\n\r\n.\r\n{subject}\r\n".encode()
            await trio.to_thread.run_sync(postfix.submit, "eve@example.net", to, message)
            sent.append(subject)

    async with trio.open_nursery() as nursery:
        for _ in range(SUBMITTERS):
            nursery.start_soon(some)


async def fill(root: Root) -> None:
    place = await root.session(ADA).place()
    _, (inbox,), _ = await place.database.account(place.mailbox.instance)
    new = [store.NewItem(content=mail.content, received_ms=mail.received_ms) for mail in make_mail(1, ITEMS, 4096)]
    await place.mailbox.append(inbox.folder_id, new)


def subjects(contents: list[bytes]) -> Counter[str]:
    """Those of this test's messages, each checked to be whole."""
    found: Counter[str] = Counter()
    for content in contents:
        if content.startswith(b"Return-Path: <eve@example.net>\r\nReceived: from client.example.net"):
            subject = content.split(b"\r\nSubject: ")[1].split(b"\r\n")[0].decode()
            assert content.endswith(f"\r\n\r\n.\r\n{subject}\r\n".encode())
            found[subject] += 1
    return found


@pytest.mark.parametrize("kind", ["inet", "unix"])
async def test_what_postfix_took_arrives_once_whatever_the_mailbox_does_meanwhile(
    tmp_path: Path, public: Path, kind: str
) -> None:
    path = tmp_path / "root"
    await init_root(path)
    where = f"127.0.0.1:{free_port()}" if kind == "inet" else f"unix:{public}/lmtp"
    transport = f"lmtp:inet:{where}" if kind == "inet" else f"lmtp:{where}"
    sent: list[str] = []
    async with open_root(path) as root:
        for number in (1, 2):
            await root.server_add(f"EX{number}", version="2010")
            await root.database_add(f"DB{number}", server=f"EX{number}")
        for address in (ADA, BOB):
            await root.mailbox_add(address, database="DB1")
        await root.alias_add(ADA, ALIAS)
        await fill(root)
        with real_postfix(public / "postfix", transport=transport) as postfix:
            with lmtp(path, where):
                online = await moved_while_submitting(root, postfix, "online", sent, to="DB2")
                rollback = await root.rollback(online)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(submit, postfix, "rollback", sent)
                    assert (await root.wait(rollback)).status == "Completed"
            for number in range(KILLS):
                with lmtp(path, where) as killed:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(submit, postfix, f"killed{number}", sent)
                        while len(sent) < (2.5 + number) * EACH:  # noqa: ASYNC110 (threads)
                            await trio.sleep(0.01)
                        killed.kill()
            with lmtp(path, where):
                token = await lock_mailbox(root, BOB)
                await submit(postfix, "locked", sent)
                with trio.fail_after(PATIENCE_S):
                    while "451 4.2.1" not in postfix.log():  # noqa: ASYNC110 (another process)
                        await trio.sleep(0.05)
                await unlock_mailbox(root, BOB, token)
                await root.complete(rollback)
                await root.wait(rollback)
                await moved_while_submitting(root, postfix, "offline", sent, to="DB2", offline=True)
                await trio.to_thread.run_sync(postfix.wait_until_empty, PATIENCE_S)
        log = postfix.log()
        assert "status=bounced" not in log
        assert len(sent) == (4 + KILLS) * EACH
        to_ada = Counter(one for one in sent if int(one.rpartition("-")[2]) % 4 != 3)
        to_bob = Counter(one for one in sent if int(one.rpartition("-")[2]) % 2 == 1)
        assert subjects(await messages_of(root, ADA)) == to_ada
        assert subjects(await messages_of(root, BOB)) == to_bob
        assert len(await messages_of(root, ADA)) == ITEMS + len(to_ada)


async def moved_while_submitting(
    root: Root, postfix: Postfix, name: str, sent: list[str], *, to: str, **options: object
) -> str:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, postfix, name, sent)
        request = await root.move(ADA, to=to, **options)
        assert (await root.wait(request)).status == "Completed"
    return request
