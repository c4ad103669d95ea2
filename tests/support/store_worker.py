"""One process of the tests with several: works on a database in a loop until it is killed.

    python -m tests.support.store_worker <path> deliver <name> | flag | read | bulk

It says on standard output, a line each, what was acknowledged (`key uid`), and reads what others acknowledged from
nowhere: the test compares. `read` is told over standard input which keys have been acknowledged, and says which of
them it did not find.
"""

import sys
from itertools import count
from pathlib import Path

import trio

import store
from tests.support.store_world import ALICE, BOB, inbox_of


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def deliver(database: store.Database, name: str, start: int) -> None:
    """Deliveries with keys, each tried twice at times: what counts is once."""
    mailbox = database.mailbox(ALICE)
    for number in count(start):
        key = f"{name}-{number}"
        began = trio.current_time()
        added = await mailbox.deliver(key.encode() * 20, key=key.encode())
        say("delivered", key, added.uid, round((trio.current_time() - began) * 1e6))
        if number % 7 == 0:
            again = await mailbox.deliver(key.encode() * 20, key=key.encode())
            assert again.duplicate


async def flag(database: store.Database) -> None:
    """Both keywords or none: who sees one of them sees half a commit."""
    inbox = await inbox_of(database)
    mailbox = database.mailbox(ALICE)
    after = 0
    while True:
        rows = await database.folder_items(ALICE, inbox, after_uid=after, limit=20)
        after = rows[-1].uid if rows else 0
        ids = [row.item_id for row in rows]
        await mailbox.change_flags(ids, add_keywords=["one", "other"])
        await mailbox.change_flags(ids[::2], remove_keywords=["one", "other"])


async def read(database: store.Database) -> None:
    """Each look is of one moment: sums that add up, UIDs below UIDNEXT, and heads that never fall."""
    head = 0
    while True:
        info, folders, _ = await database.account(ALICE)
        assert info.head >= head, "the head fell"
        page = await database.feed(ALICE, after=head)
        head = page.through
        for row in page.items:
            assert ("one" in row.keywords) == ("other" in row.keywords), "half a commit"
        (inbox,) = [folder for folder in folders if folder.name == store.INBOX]
        rows = await database.folder_items(ALICE, inbox.folder_id, after_uid=max(inbox.uidnext - 20, 0))
        for fetched in await database.fetch(ALICE, rows):
            assert fetched.content is not None, str(fetched.damage)
        say("head", head, inbox.items)
        await database.wait_change(ALICE, after=head)


async def bulk(database: store.Database) -> None:
    """Large appends into another mailbox."""
    inbox = await inbox_of(database, BOB)
    for number in count():
        items = [store.NewItem(content=b"%d" % number * 20_000, received_ms=1) for _ in range(50)]
        await database.mailbox(BOB).append(inbox, items)


async def main(path: Path, verb: str, *rest: str) -> None:
    async with store.open_database(path) as database:
        say("open")
        if verb == "deliver":
            await deliver(database, rest[0], int(rest[1]))
        else:
            await {"flag": flag, "read": read, "bulk": bulk}[verb](database)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), *sys.argv[2:])
