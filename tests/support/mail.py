"""What is in a mailbox, read at its home: for tests that ask whether everything arrived, and once."""

from moverq.root import Root


async def messages_of(root: Root, address: str) -> list[bytes]:
    """The bytes of every item of the mailbox, in the order they came."""
    place = await root.session(address).place()
    rows = [row for _, row in await place.database.items(place.mailbox.instance, limit=1_000_000)]
    rows.sort(key=lambda row: row.modseq)
    fetched = []
    while len(fetched) < len(rows):
        fetched += await place.database.fetch(place.mailbox.instance, rows[len(fetched) :])
    contents = [item.content for item in fetched if item.content is not None]
    assert len(contents) == len(rows)
    return contents
