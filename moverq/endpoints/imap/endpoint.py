"""One IMAP server as a database of the directory."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from moverq.endpoints.base import Room
from moverq.endpoints.imap.listing import list_folders
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.namespaces import namespaces_of
from moverq.endpoints.imap.quota import read_room
from moverq.endpoints.imap.session import ANSWER_S, ImapSession
from moverq.endpoints.imap.settings import Settings, parse
from moverq.endpoints.mirrored.endpoint import AddressOf, MailSystem, MirroredEndpoint, open_mirrored
from moverq.endpoints.mirrored.listed import Listed
from moverq.flow.offload import InThread, Offload
from moverq.model.ids import InstanceId

POLL_S: Final = 10.0
"""Between two looks at a server that nobody told of a change."""


@attrs.define(eq=False, kw_only=True)
class ImapServer:
    """`MailSystem`, by IMAP."""

    name: str
    settings: Settings
    make_offload: Callable[[], Offload]
    poll_s: float
    answer_s: float

    def __repr__(self) -> str:
        return f"<ImapServer {self.settings.host}>"

    @property
    def is_one_mailbox(self) -> bool:
        return False

    def user_of(self, address: str) -> str:
        return self.settings.user_of(address)

    async def list_folders(self, user: str) -> list[Listed]:
        connection = await connect(self.settings, user, answer_s=self.answer_s)
        try:
            return await list_folders(connection, await namespaces_of(connection))
        finally:
            await connection.aclose()

    async def room(self, user: str) -> Room:
        connection = await connect(self.settings, user, answer_s=self.answer_s)
        try:
            return await read_room(connection)
        finally:
            await connection.aclose()

    def session(self, path: Path, instance: InstanceId) -> ImapSession:
        return ImapSession(
            name=self.name,
            settings=self.settings,
            path=path,
            instance=instance,
            offload=self.make_offload(),
            answer_s=self.answer_s,
        )


def open_endpoint(
    name: str,
    url: str,
    *,
    mirrors: Path,
    address_of: AddressOf,
    make_offload: Callable[[], Offload] = InThread,
    poll_s: float = POLL_S,
    answer_s: float = ANSWER_S,
) -> AbstractAsyncContextManager[MirroredEndpoint]:
    """The server at `url`, as database `name` of the directory. Nothing is asked of it yet.

    Raises:
        RequestRefused: the URL does not say where an IMAP server is.
    """
    server = ImapServer(name=name, settings=parse(url), make_offload=make_offload, poll_s=poll_s, answer_s=answer_s)
    return open_mirrored(name, server, mirrors=mirrors, address_of=address_of)


if TYPE_CHECKING:
    _is_a_system: type[MailSystem] = ImapServer
