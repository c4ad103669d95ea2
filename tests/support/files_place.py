"""Mail in the files of one user, and the endpoint on it: where tests of odd files begin, whatever the format."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs

from moverq.endpoints.base import FolderStep, StepKind
from moverq.endpoints.mirrored.endpoint import MirroredEndpoint
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.endpoints.mirrored.normal_form import content_hash
from moverq.model.change import INBOX, FolderState, ItemContent, ItemState
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.files_kit import MailClient, OpenEndpoint

CLEAN = b"Subject: clean\r\n\r\ntext\r\n"
C = TypeVar("C", bound=MailClient)


@attrs.frozen
class Place(Generic[C]):
    """An endpoint, and the mail of its one address."""

    endpoint: MirroredEndpoint
    client: C
    mailbox_id: MailboxId
    instance: InstanceId

    async def source(self) -> MirroredMailbox:
        self.client.make("INBOX")
        await self.endpoint.adopt(self.mailbox_id, self.instance, "ada@example.org")
        return self.endpoint.mailbox(self.instance)

    async def target(self) -> tuple[MirroredMailbox, FolderId]:
        """A sealed one, and its INBOX."""
        target = self.endpoint.mailbox(self.instance)
        await target.create(self.mailbox_id, token=1)
        inbox = a_folder(INBOX)
        await target.apply_folders([FolderStep(StepKind.CREATE, inbox)], token=1)
        return target, inbox.folder_id


@asynccontextmanager
async def a_place(
    path: Path, open_endpoint: OpenEndpoint, location: str, make_client: Callable[[Path], C]
) -> AsyncIterator[Place[C]]:
    """`location`: its `{}` is the mail's folder."""

    async def address_of(mailbox_id: MailboxId) -> str:
        return "ada@example.org"

    root = path / "mail"
    async with open_endpoint(
        "here", location.format(root), mirrors=path / "mirrors", address_of=address_of, poll_s=0.02
    ) as endpoint:
        yield Place(endpoint, make_client(root), MailboxId(new_id()), InstanceId(new_id()))


def a_folder(name: str, parent_id: FolderId | None = None, **more: Any) -> FolderState:
    return FolderState(FolderId(new_id()), parent_id, name, modseq=1, uidvalidity=7, uidnext=1, **more)


def an_item(folder_id: FolderId, uid: int, content: bytes = CLEAN, **state: Any) -> ItemContent:
    return ItemContent(
        ItemState(
            item_id=ItemId(new_id()),
            folder_id=folder_id,
            uid=uid,
            modseq=10 + uid,
            received_ms=1_700_000_000_123,
            size=len(content),
            content_hash=content_hash(content),
            flags=0,
            keywords=(),
        )._replace(**state),
        content,
    )


async def gone_since(mailbox: MirroredMailbox, head: Any) -> int:
    return len((await mailbox.read_feed(head, changes_max=1000)).items_gone)
