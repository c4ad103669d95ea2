"""The mailboxes of one location as a mail system, whatever their format."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from moverq.endpoints.base import Room
from moverq.endpoints.files.session import FileSettings, at_files
from moverq.endpoints.mirrored.listed import Listed
from moverq.flow.offload import Offload

L = TypeVar("L")


@attrs.define(eq=False, kw_only=True)
class FileSystem(ABC, Generic[L]):
    """What the `MailSystem` of a format begins with; its listing and its sessions are its own."""

    name: str
    settings: FileSettings[L]
    make_offload: Callable[[], Offload]
    poll_s: float

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.settings.root}>"

    @property
    def is_one_mailbox(self) -> bool:
        return self.settings.is_one_mailbox

    def user_of(self, address: str) -> str:
        return self.settings.user_of(address)

    async def room(self, user: str) -> Room:
        """Its quota, if there is one, is the delivery agent's affair."""
        return Room()

    async def list_folders(self, user: str) -> list[Listed]:
        """What there is, before there is a mirror. Raises: what `as_move_error` makes of an `OSError`."""
        layout = self.settings.layout_of(user)
        return await at_files(
            self.make_offload(), lambda: self.listed(layout), endpoint=self.name, doing="list the folders"
        )

    @abstractmethod
    def listed(self, layout: L) -> list[Listed]:
        """The folders, with how many messages each has, about; none where there is no mailbox. Blocking. Raises
        `OSError`."""
        ...


__all__ = ["FileSystem"]
