"""One IMAP server as a database of the directory, and the mailboxes on it that the mover knows.

Which mailboxes there are is the server's affair; an instance here is a mirror, a file below `mirrors`. An administrator
registers a user's mailbox once (`adopt`), and a move's target makes its own.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from moverq.endpoints.base import Endpoint, GuardMode, MailboxSummary, Source, Target
from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.folder_names import Naming
from moverq.endpoints.imap.listing import naming_of
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.mailbox import ImapMailbox
from moverq.endpoints.imap.mirror import Mirror
from moverq.endpoints.imap.session import ANSWER_S, ImapSession
from moverq.endpoints.imap.settings import Settings, parse
from moverq.errors import NotFound
from moverq.flow.offload import InThread, Offload
from moverq.model.ids import InstanceId, MailboxId

POLL_S: Final = 10.0
"""Between two looks at a server that nobody told of a change."""
CLOSE_S: Final = 5.0

AddressOf = Callable[[MailboxId], Awaitable[str]]
"""The primary address of a mailbox, by the directory."""


@attrs.define(eq=False, kw_only=True)
class ImapEndpoint:
    """See the module. Made by `open_endpoint`."""

    name: str
    settings: Settings
    mirrors: Path
    address_of: AddressOf
    make_offload: Callable[[], Offload]
    poll_s: float = POLL_S
    answer_s: float = ANSWER_S
    _sessions: dict[InstanceId, ImapSession] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        return f"<ImapEndpoint {self.name} {self.settings.host} {len(self._sessions)} mailboxes>"

    def source(self, instance: InstanceId) -> Source:
        return self.mailbox(instance)

    def target(self, instance: InstanceId) -> Target:
        return self.mailbox(instance)

    def mailbox(self, instance: InstanceId) -> ImapMailbox:
        """Both sides in one. Of one instance there is one session here, whoever asks."""
        session = self._sessions.get(instance)
        if session is None:
            session = self._sessions[instance] = ImapSession(
                name=self.name,
                settings=self.settings,
                path=self.path_of(instance),
                instance=instance,
                offload=self.make_offload(),
                answer_s=self.answer_s,
            )
        return ImapMailbox(self, session)

    def path_of(self, instance: InstanceId) -> Path:
        return self.mirrors / f"{instance.hex()}.sqlite"

    def forget(self, instance: InstanceId) -> None:
        self._sessions.pop(instance, None)

    async def user_of(self, mailbox_id: MailboxId) -> str:
        """What the mailbox's user is called at this server."""
        return self.settings.user_of(await self.address_of(mailbox_id))

    async def adopt(self, mailbox_id: MailboxId, instance: InstanceId, address: str) -> None:
        """The mailbox that this address has at the server is an open instance here. The login has been tried.

        Raises: what `login.connect` raises.
        """
        user = self.settings.user_of(address)
        async with self.visit(user):
            pass
        make = partial(Mirror.make, mailbox_id=mailbox_id, instance=instance, user=user, mode=GuardMode.OPEN, token=0)
        self.mailbox(instance)
        await self._sessions[instance].make(make)

    @asynccontextmanager
    async def visit(self, user: str) -> AsyncIterator[tuple[Connection, Naming, tuple[bytes, ...]]]:
        """A connection for a user of whom there is no mirror."""
        connection = await connect(self.settings, user, answer_s=self.answer_s)
        try:
            naming, others = await naming_of(connection)
            yield connection, naming, others
        finally:
            await connection.aclose()

    async def instances(self) -> Sequence[MailboxSummary]:
        """Those the mover knows; of the mailboxes at the server it says nothing."""

        def listed() -> list[str]:
            return sorted(path.stem for path in self.mirrors.glob("*.sqlite"))

        found: list[MailboxSummary] = []
        for stem in await trio.to_thread.run_sync(listed):
            self.mailbox(InstanceId(bytes.fromhex(stem)))
            try:
                found.append(await self._sessions[InstanceId(bytes.fromhex(stem))].ask(Mirror.summary))
            except NotFound:
                continue
        return found

    async def aclose(self) -> None:
        for session in list(self._sessions.values()):
            await session.aclose()


@asynccontextmanager
async def open_endpoint(
    name: str,
    url: str,
    *,
    mirrors: Path,
    address_of: AddressOf,
    make_offload: Callable[[], Offload] = InThread,
    poll_s: float = POLL_S,
    answer_s: float = ANSWER_S,
) -> AsyncIterator[ImapEndpoint]:
    """The server at `url`, as database `name` of the directory. Nothing is asked of it yet.

    Raises:
        RequestRefused: the URL does not say where an IMAP server is.
    """
    endpoint = ImapEndpoint(
        name=name,
        settings=parse(url),
        mirrors=mirrors,
        address_of=address_of,
        make_offload=make_offload,
        poll_s=poll_s,
        answer_s=answer_s,
    )
    try:
        yield endpoint
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await endpoint.aclose()


if TYPE_CHECKING:
    _is_an_endpoint: type[Endpoint] = ImapEndpoint
