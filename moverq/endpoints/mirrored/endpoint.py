"""One mail system as a database of the directory, and the mailboxes in it that the mover knows.

Which mailboxes there are is the mail system's affair; an instance here is a mirror, a file below `mirrors`. An
administrator registers a user's mailbox once (`adopt`), and a move's target makes its own.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import attrs
import trio

from moverq.endpoints.base import Endpoint, GuardMode, MailboxSummary, Room, Source, Target
from moverq.endpoints.mirrored.listed import Listed
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.endpoints.mirrored.mirror import Mirror
from moverq.endpoints.mirrored.session import MailSession
from moverq.errors import NotFound, RequestRefused
from moverq.model.ids import InstanceId, MailboxId

CLOSE_S: Final = 5.0

AddressOf = Callable[[MailboxId], Awaitable[str]]
"""The primary address of a mailbox, by the directory."""


class MailSystem(Protocol):
    """A kind's side of an endpoint: what it knows before there is a mirror."""

    @property
    def poll_s(self) -> float:
        """Between two looks where nobody tells of a change."""
        ...

    @property
    def is_one_mailbox(self) -> bool:
        """There is one mailbox, whatever the address: so one instance, at the most."""
        ...

    def user_of(self, address: str) -> str:
        """What the user of this address is called there. Raises `RequestRefused`."""
        ...

    async def list_folders(self, user: str) -> Sequence[Listed]:
        """The folders of a user's mailbox, which can be reached; `items` is how many messages each holds.

        Raises: EndpointUnavailable, EndpointBusy, EndpointBroken, RequestRefused.
        """
        ...

    async def room(self, user: str) -> Room:
        """What a quota still lets in. Raises as `list_folders` does."""
        ...

    def session(self, path: Path, instance: InstanceId) -> MailSession:
        """The session of a mailbox whose mirror is, or will be, at `path`."""
        ...


@attrs.define(eq=False, kw_only=True)
class MirroredEndpoint:
    """See the module. Made by `open_mirrored`."""

    name: str
    system: MailSystem
    mirrors: Path
    address_of: AddressOf
    _sessions: dict[InstanceId, MailSession] = attrs.field(factory=dict)
    _users: Counter[InstanceId] = attrs.field(factory=Counter)
    """How many have each session now."""

    def __repr__(self) -> str:
        return f"<MirroredEndpoint {self.name} {self.system!r} {len(self._sessions)} mailboxes>"

    def source(self, instance: InstanceId) -> Source:
        return self.mailbox(instance)

    def target(self, instance: InstanceId) -> Target:
        return self.mailbox(instance)

    def mailbox(self, instance: InstanceId) -> MirroredMailbox:
        """Both sides in one, to be closed by who asked. Of one instance there is one session here, whoever asks."""
        session = self._sessions.get(instance)
        if session is None:
            path = self.mirrors / f"{instance.hex()}.sqlite"
            session = self._sessions[instance] = self.system.session(path, instance)
        self._users[instance] += 1
        return MirroredMailbox(self, session)

    async def leave(self, session: MailSession) -> None:
        """One user less has it; after the last it is closed. Who comes while it is takes it up again."""
        instance = session.instance
        self._users[instance] -= 1
        if not self._users[instance]:
            await session.aclose()
            if not self._users[instance]:
                self._users.pop(instance, None)
                self._sessions.pop(instance, None)

    async def user_of(self, mailbox_id: MailboxId) -> str:
        """What the mailbox's user is called there."""
        return self.system.user_of(await self.address_of(mailbox_id))

    async def adopt(self, mailbox_id: MailboxId, instance: InstanceId, address: str) -> None:
        """The mailbox that this address has there is an open instance here. It has been reached.

        Raises: what `MailSystem.list_folders` raises.
        """
        user = await self.check_reached(address)
        await self.check_alone(instance)
        make = partial(Mirror.make, mailbox_id=mailbox_id, instance=instance, user=user, mode=GuardMode.OPEN, token=0)
        async with aclosing(self.mailbox(instance)) as mailbox:
            await mailbox.session.mirror.make(make)

    async def check_reached(self, address: str) -> str:
        """This address has a mailbox there; what its user is called. Raises what `MailSystem.list_folders` raises."""
        user = self.system.user_of(address)
        if not await self.system.list_folders(user):
            raise RequestRefused(why=f"there is no mailbox of {user} at {self.name}")
        return user

    async def check_alone(self, instance: InstanceId) -> None:
        """Raises `RequestRefused` where the instance would be a second one of the one mailbox that there is."""
        others = (
            [one for one in await self.instances() if one.instance != instance] if self.system.is_one_mailbox else []
        )
        if others:
            raise RequestRefused(
                why=f"{self.name} is one mailbox, and it is the mailbox {others[0].mailbox_id.hex()[:8]} already"
            )

    async def instances(self) -> Sequence[MailboxSummary]:
        """Those the mover knows; of the other mailboxes there it says nothing."""

        def listed() -> list[str]:
            return sorted(path.stem for path in self.mirrors.glob("*.sqlite"))

        found: list[MailboxSummary] = []
        for stem in await trio.to_thread.run_sync(listed):
            async with aclosing(self.mailbox(InstanceId(bytes.fromhex(stem)))) as mailbox:
                with suppress(NotFound):
                    found.append(await mailbox.session.mirror.ask(Mirror.summary))
        return found

    async def aclose(self) -> None:
        for session in list(self._sessions.values()):
            await session.aclose()


@asynccontextmanager
async def open_mirrored(
    name: str, system: MailSystem, *, mirrors: Path, address_of: AddressOf
) -> AsyncIterator[MirroredEndpoint]:
    """The mail system, as database `name` of the directory. Nothing is asked of it yet."""
    endpoint = MirroredEndpoint(name=name, system=system, mirrors=mirrors, address_of=address_of)
    try:
        yield endpoint
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await endpoint.aclose()


if TYPE_CHECKING:
    _is_an_endpoint: type[Endpoint] = MirroredEndpoint
