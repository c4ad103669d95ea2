"""A mailbox at its home: what is in it, for tests that ask whether everything arrived, and once; and its lock."""

from moverq.root import Root


async def messages_of(root: Root, address: str) -> list[bytes]:
    """The bytes of every item of the mailbox, in the order they came."""
    place = await root.session(address).place()
    rows = list(await place.database.items(place.mailbox.instance, limit=1_000_000))
    rows.sort(key=lambda row: row.modseq)
    fetched = []
    while len(fetched) < len(rows):
        fetched += await place.database.fetch(place.mailbox.instance, rows[len(fetched) :])
    contents = [item.content for item in fetched if item.content is not None]
    assert len(contents) == len(rows)
    return contents


async def lock_mailbox(root: Root, address: str) -> int:
    """The mailbox is locked as a finalize does it; the token that unlocks it."""
    recipient = await root.directory.locate(address)
    token = await root.directory.take_token(recipient.mailbox_id)
    home = recipient.register.home
    await (await root.store(home.database)).source(home.instance).lock(token)
    return token


async def unlock_mailbox(root: Root, address: str, token: int) -> None:
    home = (await root.directory.locate(address)).register.home
    await (await root.store(home.database)).source(home.instance).unlock(token)
