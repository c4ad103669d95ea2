"""Two databases of each kind of endpoint, and what stands in them when a test of the contract begins."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moverq.endpoints.base import Target
from moverq.endpoints.imap import listing
from moverq.endpoints.maildir import session
from moverq.model.ids import InstanceId, MailboxId, new_id
from tests.support.endpoints import KITS, Kit, Mailbox, open_mailbox
from tests.support.mover import converge_folders


@pytest.fixture(params=sorted(KITS))
def endpoint_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def small_parts(endpoint_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the servers, and Maildirs, are looked into in parts, as if their folders were large."""
    if endpoint_kind == "imap-maildir":
        monkeypatch.setattr(listing, "PART_ITEMS", 2)
    if endpoint_kind == "maildir":
        monkeypatch.setattr(session, "PART_ITEMS", 2)


@pytest.fixture
async def here(endpoint_kind: str, tmp_path: Path) -> AsyncIterator[Kit]:
    async with KITS[endpoint_kind]("here", tmp_path / "here") as kit:
        yield kit


@pytest.fixture
async def there(endpoint_kind: str, tmp_path: Path) -> AsyncIterator[Kit]:
    async with KITS[endpoint_kind]("there", tmp_path / "there") as kit:
        yield kit


@pytest.fixture
async def mailbox(here: Kit) -> Mailbox:
    """An open mailbox with an INBOX, `here`."""
    return await open_mailbox(here)


@pytest.fixture
def target_instance() -> InstanceId:
    return InstanceId(new_id())


@pytest.fixture
async def target(there: Kit, mailbox: Mailbox, target_instance: InstanceId) -> Target:
    """The sealed target of the mailbox, `there`, with token 1 and the same folders."""
    made = there.endpoint.target(target_instance)
    await made.create((await mailbox.source.summary()).mailbox_id, token=1)
    await converge_folders(made, await mailbox.source.read_hierarchy(), token=1)
    return made


@pytest.fixture
def mailbox_id() -> MailboxId:
    return MailboxId(new_id())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A real server is slow, and of the long random runs takes two seeds; `MOVERQ_CONTRACT_FULL=1` takes all."""
    for item in items:
        if _kind(item).startswith("imap-"):
            item.add_marker(pytest.mark.slow)
    if os.environ.get("MOVERQ_CONTRACT_FULL") == "1":
        return
    items[:] = [item for item in items if not _is_one_seed_more(item)]


def _given(item: pytest.Item) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec is not None else {}


def _kind(item: pytest.Item) -> str:
    return str(_given(item).get("endpoint_kind", ""))


def _is_one_seed_more(item: pytest.Item) -> bool:
    seed = _given(item).get("number", _given(item).get("seed", 0))
    return _kind(item).startswith("imap-") and isinstance(seed, int) and seed >= 2
