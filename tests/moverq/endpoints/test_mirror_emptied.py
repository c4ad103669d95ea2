"""A mailbox that is suddenly empty: the disk that is not mounted, not the user who deleted everything."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moverq.endpoints.maildir.endpoint import open_endpoint
from moverq.endpoints.mirrored import emptied
from moverq.errors import EndpointBusy
from moverq.flow import clock
from tests.moverq.endpoints.test_imap_quirks import a_source, an_endpoint
from tests.support.fake_imap import RICH, FakeImap, Folder, open_fake
from tests.support.files_place import Place, a_place
from tests.support.maildir_client import MaildirClient, base_of

COUNT = 20
HOUR_MS = 3_600_000


class Clock:
    ms = 1_800_000_000_000


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")
    monkeypatch.setattr(emptied, "EMPTIED_ITEMS", 10)
    told = Clock()
    monkeypatch.setattr(clock, "now_ms", lambda: told.ms)
    return told


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place[MaildirClient]]:
    async with a_place(tmp_path, open_endpoint, "maildir:{}", MaildirClient) as one:
        for name in ("INBOX", "A"):
            one.client.make(name)
            for number in range(COUNT // 2):
                one.client.deliver(b"Subject: %s %d\r\n\r\n" % (name.encode(), number), name)
        yield one


def take_away(client: MaildirClient, *, leaving: int = 0) -> dict[Path, bytes]:
    files = sorted(path for name in ("INBOX", "A") for path in client.files(name))[leaving:]
    taken = {path: path.read_bytes() for path in files}
    for path in files:
        path.unlink()
    return taken


@pytest.mark.parametrize("leaving", [0, 2])
async def test_mail_that_is_gone_all_at_once_and_comes_back_was_never_gone(
    place: Place[MaildirClient], leaving: int
) -> None:
    source = await place.source()
    before = await source.head()
    taken = take_away(place.client, leaving=leaving)
    for _ in range(2):
        with pytest.raises(EndpointBusy, match=f"{COUNT - leaving} of 20 messages are gone, all at once"):
            await source.head()
        with pytest.raises(EndpointBusy, match=r"is believed from 2027-01-16T08:00:00"):
            await source.read_feed(before, changes_max=100)
    for path, content in taken.items():
        path.write_bytes(content)
    batch = await source.read_feed(before, changes_max=100)
    assert not batch.items_gone
    assert (await source.summary()).items == COUNT


async def test_mail_that_stays_away_for_a_day_was_deleted(place: Place[MaildirClient], now: Clock) -> None:
    source = await place.source()
    before = await source.head()
    take_away(place.client)
    for _ in range(24):
        with pytest.raises(EndpointBusy):
            await source.head()
        now.ms += HOUR_MS
    batch = await source.read_feed(before, changes_max=100)
    assert len(batch.items_gone) == COUNT


async def test_each_time_begins_anew(place: Place[MaildirClient], now: Clock) -> None:
    source = await place.source()
    await source.head()
    for _ in range(3):
        taken = take_away(place.client)
        with pytest.raises(EndpointBusy):
            await source.head()
        for path, content in taken.items():
            path.write_bytes(content)
        await source.head()
        now.ms += 20 * HOUR_MS
    take_away(place.client)
    with pytest.raises(EndpointBusy):
        await source.head()


async def test_what_a_user_does_is_believed_at_once(place: Place[MaildirClient]) -> None:
    source = await place.source()
    before = await source.head()
    place.client.make("Archive")
    gone = 3
    for name in ("INBOX", "A"):
        for path in list(place.client.files(name)):
            if gone:
                gone -= 1
                path.unlink()
            else:
                place.client.move(name, base_of(path.name), "Archive")
    batch = await source.read_feed(before, changes_max=100)
    assert (len(batch.items), len(batch.items_gone)) == (COUNT - 3, 3)
    for path in sorted(place.client.files("Archive"))[2:]:
        path.unlink()
    place.client.deliver(b"Subject: another one\r\n\r\n")
    after = await source.read_feed(batch.through, changes_max=100)
    assert (len(after.items), len(after.items_gone)) == (1, COUNT - 5)


@pytest.mark.parametrize("capabilities", [RICH, RICH.replace(" QRESYNC", ""), RICH.replace(" CONDSTORE QRESYNC", "")])
async def test_a_server_without_its_mail_is_not_believed(capabilities: str, tmp_path: Path) -> None:
    """As Dovecot makes a new, empty INBOX where the old one's disk is away. One that only renumbers is."""
    server = FakeImap(capabilities)
    for number in range(COUNT):
        server.add("INBOX" if number % 2 else "A", b"Subject: %d\r\n\r\n" % number)
    async with open_fake(server), an_endpoint(server, tmp_path) as endpoint:
        source = await a_source(endpoint)
        before = await source.head()
        await source.read_seed(None, bytes_max=1 << 20, items_max=100)
        folders, server.folders = server.folders, {"INBOX": Folder(99)}
        with pytest.raises(EndpointBusy, match="20 of 20 messages are gone"):
            await source.head()
        server.folders = folders
        assert not (await source.read_feed(before, changes_max=100)).items_gone
        for folder in folders.values():
            folder.validity += 100
        assert not (await source.read_feed(before, changes_max=100)).items_gone
        del folders["A"].mail[:], folders["INBOX"].mail[1:]
        server.tick()
        with pytest.raises(EndpointBusy, match="19 of 20 messages are gone"):
            await source.head()
