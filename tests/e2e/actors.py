"""Processes of the killed-worker test: `python -m tests.e2e.actors KIND ROOT ACCOUNT`.

Each appends a line to its account *after* the acknowledgement, and what it is about to do before: so what was cut off
in between is known to be in doubt.
"""

import itertools
import os
import random
import sys
from pathlib import Path

import trio

from moverq.errors import MoveError
from moverq.root import Root, open_root

ADDRESS = "ada@example.com"


class Account:
    """Lines that are in the file when `say` returns, whatever becomes of the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(str(word) for word in words) + "\n").encode())


async def deliver(root: Root, account: Account) -> None:
    """Numbered messages; the same key again after a restart, so that one in doubt arrives once."""
    session = root.session(ADDRESS)
    name = f"{os.getpid()}"
    for number in itertools.count():
        key = f"{name}-{number}"
        account.say("try", key)
        with trio.fail_after(60):
            await session.use(lambda place, key=key: place.mailbox.deliver(body(key), key=key.encode()))  # type: ignore[misc]
        account.say("done", key)
        await trio.sleep(0.01)


async def insist(root: Root, account: Account) -> None:
    """Large messages, each again until it is accepted, as an MTA's queue does; what refused it is told."""
    name = f"{os.getpid()}"
    for number in itertools.count():
        key = f"{name}-{number}"
        account.say("try", key)
        while True:
            try:
                with trio.fail_after(60):
                    await root.deliver(ADDRESS, body(key, 20_000), key=key.encode())
            except MoveError as error:
                account.say("refused", key, type(error).__name__, str(error).replace("\n", " "))
                await trio.sleep(0.2)
            else:
                account.say("done", key)
                break
        await trio.sleep(0.2)


def body(key: str, size: int = 0) -> bytes:
    return f"Subject: {key}\r\n\r\n{'x' * size}\n{key}".encode() if size else f"Subject: {key}\r\n\r\n{key}".encode()


async def flag(root: Root, account: Account) -> None:
    """Each round gives one item of INBOX a keyword that tells the round."""
    session = root.session(ADDRESS)
    rng = random.Random(os.getpid())
    for number in itertools.count():
        place = await session.place()
        rows = await place.database.items(place.mailbox.instance, limit=1000)
        item_id, word = rng.choice(rows).item_id, f"round-{number}"
        account.say("try", item_id.hex(), word)
        with trio.fail_after(60):
            changed = await session.use(
                lambda place, item_id=item_id, word=word: place.mailbox.set_flags([item_id], 1, [word])  # type: ignore[misc]
            )
        if changed:
            account.say("done", item_id.hex(), word)
        await trio.sleep(0.02)


async def worker(root: Root, account: Account) -> None:
    account.say("started")
    await root.worker()


KINDS = {"deliver": deliver, "insist": insist, "flag": flag, "worker": worker}


async def main(kind: str, path: str, account: str) -> None:
    async with open_root(path) as root:
        await KINDS[kind](root, Account(Path(account)))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
