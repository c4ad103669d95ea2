"""A user at work: random verbs on one mailbox, from a seed, remembering what there is to act on."""

from contextlib import suppress
from random import Random

import attrs
import pytest

from moverq.errors import RequestRefused
from moverq.model.ids import FolderId, ItemId
from tests.support.endpoints import Client, Mailbox

CANNOT = pytest.skip.Exception
"""A kind of mailbox that has no such verb: the user does something else."""


@attrs.define
class MailboxUser:
    """`act` does one thing. `folders_too` False: items only, in the folders that there are."""

    client: Client
    random: Random
    folders: list[FolderId]
    folders_too: bool = True
    items: dict[ItemId, FolderId] = attrs.Factory(dict)
    acts: int = 0

    @classmethod
    def of(cls, mailbox: Mailbox, random: Random) -> "MailboxUser":
        return cls(mailbox.client, random, [mailbox.inbox])

    async def act(self) -> None:
        self.acts += 1
        if self.folders_too and self.random.random() < 0.25:
            # A name that is taken, a folder inside itself: users try such things.
            with suppress(RequestRefused, CANNOT):
                await self._act_on_folders()
        elif not self.items or self.random.random() < 0.4:
            await self._add_item()
        else:
            with suppress(CANNOT):
                await self._act_on_item(self.random.choice(list(self.items)))

    async def _add_item(self) -> None:
        # A few contents only, so that equal copies are usual.
        content = b"Subject: %d\r\n\r\n" % self.random.randrange(50) + b"x" * self.random.randrange(200)
        if self.random.random() < 0.5:
            try:
                item_id = await self.client.deliver(content, b"key %d" % self.acts)
            except CANNOT:
                item_id = await self.client.deliver(content)
            assert item_id is not None
            self.items[item_id] = self.folders[0]
        else:
            folder_id = self.random.choice(self.folders)
            self.items[await self.client.append(folder_id, content, flags=self.random.randrange(32))] = folder_id

    async def _act_on_item(self, item_id: ItemId) -> None:
        match self.random.randrange(6):
            case 0 | 1:
                keywords = self.random.sample(["$Forwarded", "$Junk", "work"], self.random.randrange(3))
                await self.client.set_flags(item_id, self.random.randrange(32), keywords)
            case 2:
                folder_id = self.random.choice(self.folders)
                await self.client.move_item(item_id, folder_id)
                self.items[item_id] = folder_id
            case 3:
                folder_id = self.random.choice(self.folders)
                self.items[await self.client.copy_item(item_id, folder_id)] = folder_id
            case 4:
                await self.client.delete_item(item_id, purge=True)
                del self.items[item_id]
            case _:
                await self.client.delete_item(item_id)
                del self.items[item_id]

    async def _act_on_folders(self) -> None:
        name = self.random.choice("ABCD")
        others = self.folders[1:]
        parent_id = self.random.choice([None, *others])
        match self.random.randrange(5):
            case 0 if others:
                await self.client.rename_folder(self.random.choice(others), name)
            case 1 if others:
                await self.client.move_folder(self.random.choice(others), parent_id, name)
            case 2 if others:
                folder_id = self.random.choice(others)
                await self.client.delete_folder(folder_id)
                self.folders.remove(folder_id)
                self.items = {item_id: at for item_id, at in self.items.items() if at != folder_id}
            case 3:
                value = self.random.choice([None, '{"on":true}', '{"on":false}'])
                await self.client.set_setting(self.random.choice(["out_of_office", "x-quota"]), value)
            case _:
                self.folders.append(await self.client.create_folder(name, parent_id))
