"""A refresh of a mirror: what is put into it while the mail system lists, and what waits until all is told."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path

import pytest

from moverq.endpoints.maildir import folder, session
from moverq.endpoints.maildir.endpoint import open_endpoint
from moverq.endpoints.maildir.session import MaildirSession
from moverq.endpoints.mirrored import refresh
from moverq.endpoints.mirrored.learned import Look, OnLook
from moverq.endpoints.mirrored.listed import Wanted
from moverq.endpoints.mirrored.mirror import Mirror
from moverq.errors import EndpointUnavailable
from moverq.model.change import ItemState
from tests.support.files_place import Place, a_place
from tests.support.maildir_client import MaildirClient, base_of

FOLDERS = ("INBOX", "A", "B", "C", "D")
OF_EACH = 3


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place[MaildirClient]]:
    async with a_place(tmp_path, open_endpoint, "maildir:{}", MaildirClient) as one:
        for folder in FOLDERS:
            one.client.make(folder)
            for number in range(OF_EACH):
                one.client.deliver(b"Subject: %s %d\r\n\r\n" % (folder.encode(), number), folder)
        yield one


def after_each_look(monkeypatch: pytest.MonkeyPatch, told: Callable[[int], Awaitable[None]]) -> None:
    """`told` is awaited with the number of looks so far, while the mail system is still listing."""
    look_into = MaildirSession.look_into

    async def looked(self: MaildirSession, wanted: Sequence[Wanted], *, on_look: OnLook) -> None:
        looks = 0

        async def then(look: Look) -> None:
            nonlocal looks
            await on_look(look)
            looks += 1
            await told(looks)

        await look_into(self, wanted, on_look=then)

    monkeypatch.setattr(MaildirSession, "look_into", looked)


def rows(mirror: Mirror) -> int:
    return int(mirror.db.execute("SELECT count(*) FROM items").get)


async def listed(place: Place[MaildirClient]) -> dict[bytes, ItemState]:
    page = await place.endpoint.mailbox(place.instance).read_seed(None, bytes_max=1 << 20, items_max=1000)
    assert page.done
    assert len({item.content for item in page.items}) == len(page.items), "nothing twice"
    return {item.content: item.state for item in page.items}


async def test_what_a_first_listing_told_is_in_the_mirror_before_the_next_folder_is_listed(
    place: Place[MaildirClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what is held does not grow with the mailbox."""
    monkeypatch.setattr(refresh, "ROWS_AT_ONCE", 2 * OF_EACH)
    source, seen = await place.source(), list[int]()

    async def told(_: int) -> None:
        seen.append(await source.session.mirror.ask(rows))

    after_each_look(monkeypatch, told)
    assert len(await listed(place)) == len(FOLDERS) * OF_EACH
    assert seen == [0, 2 * OF_EACH, 2 * OF_EACH, 4 * OF_EACH, 4 * OF_EACH]


@pytest.mark.parametrize("after", range(1, len(FOLDERS) + 1))
async def test_a_first_listing_that_is_cut_off_goes_on_where_it_was(
    place: Place[MaildirClient], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Nothing is missing, nothing twice, and what was known keeps its id."""
    monkeypatch.setattr(refresh, "ROWS_AT_ONCE", 1)
    source = await place.source()

    async def cut(looks: int) -> None:
        if looks == after:
            raise EndpointUnavailable(endpoint="here", why="the connection was lost")

    with monkeypatch.context() as once:
        after_each_look(once, cut)
        with pytest.raises(EndpointUnavailable):
            await source.head()
    assert await source.session.mirror.ask(rows) == after * OF_EACH
    known = await source.session.mirror.ask(
        lambda mirror: {item_id for (item_id,) in mirror.db.execute("SELECT item_id FROM items")}
    )
    found = await listed(place)
    assert len(found) == len(FOLDERS) * OF_EACH
    assert known <= {state.item_id for state in found.values()}


async def test_a_message_that_changed_folders_between_two_listings_is_the_same_item(
    place: Place[MaildirClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost in one folder and new in another: neither is put into the mirror alone, whichever is listed first."""
    monkeypatch.setattr(refresh, "ROWS_AT_ONCE", 1)
    source = await place.source()
    before = await listed(place)
    there = b"Subject: A 1\r\n\r\n"
    for content, old, new in ((there, "A", "D"), (b"Subject: D 2\r\n\r\n", "D", "A")):
        (path,) = [path for path in place.client.files(old) if path.read_bytes() == content]
        place.client.move(old, base_of(path.name), new)
    await source.head()
    after = await listed(place)
    assert {content: state.item_id for content, state in after.items()} == {
        content: state.item_id for content, state in before.items()
    }
    assert after[there].folder_id == before[b"Subject: D 1\r\n\r\n"].folder_id


@pytest.mark.parametrize("known", [0, 4], ids=["at first", "some are known"])
@pytest.mark.parametrize("at", range(10))
async def test_a_file_that_is_renamed_while_its_part_of_the_folder_is_told_is_one_message(
    place: Place[MaildirClient], monkeypatch: pytest.MonkeyPatch, at: int, known: int
) -> None:
    """The folder is looked at once more, all of it, and the parts that were told before count once."""
    monkeypatch.setattr(session, "PART_ITEMS", 3)
    monkeypatch.setattr(refresh, "ROWS_AT_ONCE", 1)
    for number in range(known):
        place.client.deliver(b"Subject: known %d\r\n\r\n" % number)
    source = await place.source()
    if known:
        await source.head()
    for number in range(10):
        place.client.deliver(b"Subject: more %d\r\n\r\n" % number)
    asked, ask = count(), folder.received_and_size

    def once_renamed(path: bytes, rel: bytes) -> tuple[int, int]:
        if next(asked) == at:
            raise FileNotFoundError
        return ask(path, rel)

    monkeypatch.setattr(folder, "received_and_size", once_renamed)
    assert len(await listed(place)) == len(FOLDERS) * OF_EACH + known + 10
