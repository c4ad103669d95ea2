"""What a user does while the mailbox is being moved: one verb at a time, at the engine's own steps.

The script is data: names of verbs, in an order that meets swaps, cycles, deletions and duplicates. A verb that finds
the mailbox locked is tried again at a later step, as a client would; one that is acknowledged becomes part of what
`World.check_safe` asks for.
"""

from collections.abc import Sequence

import attrs
import trio

from moverq.endpoints.memory import MemoryMailbox
from moverq.errors import MailboxLocked, MailboxMoved
from moverq.model.change import Flag
from moverq.model.ids import ItemId
from tests.support.move_world import Filled, World

WHILE_MOVING = (
    "deliver", "flag", "swap", "move", "purge", "deliver-key", "rename", "append-new-folder", "delete", "cycle",
    "deliver-again", "setting", "delete-folder", "flag-back", "nest", "deliver", "copy", "move-back",
)  # fmt: skip


@attrs.define(eq=False)
class Script:
    """`act` does the next verb. It is over when `left` is empty."""

    world: World
    filled: Filled
    left: list[str] = attrs.field(factory=lambda: list(WHILE_MOVING))
    done: int = 0

    @classmethod
    def of(cls, world: World, filled: Filled, verbs: Sequence[str] = WHILE_MOVING) -> "Script":
        return cls(world, filled, list(verbs))

    async def act(self) -> None:
        """Do the next verb, if the mailbox is to be used now.

        The user is another process: what kills the engine does not come between a verb and its acknowledgement.
        """
        with trio.CancelScope(shield=True):
            async with self.world.users_turn:
                await self._act()

    async def _act(self) -> None:
        if not self.left:
            return
        try:
            await self._do(self.left[0], await self.world.mailbox())
        except (MailboxLocked, MailboxMoved):
            return
        self.left.pop(0)
        self.done += 1
        await self.world.acknowledge()

    async def _do(self, verb: str, mailbox: MemoryMailbox) -> None:
        folders, items = self.filled.folders, self.filled.items
        home = await self.world.at_home()
        alive = [item_id for item_id in items if item_id in home.items]
        match verb:
            case "deliver":
                items.append(_got(await mailbox.deliver(f"Subject: delivery {self.done}\r\n\r\n".encode())))
            case "deliver-key":
                items.append(_got(await mailbox.deliver(b"Subject: keyed\r\n\r\n", b"key-2")))
            case "deliver-again":
                assert await mailbox.deliver(b"Subject: keyed\r\n\r\n", b"key-2") is None
                assert await mailbox.deliver(b"Subject: with key\r\n\r\n", b"key-1") is None
            case "flag":
                await mailbox.set_flags(alive[0], int(Flag.FLAGGED), ("$Later",))
            case "flag-back":
                await mailbox.set_flags(alive[-1], int(Flag.SEEN | Flag.ANSWERED))
            case "move":
                await mailbox.move_item(alive[1], folders["B"])
            case "move-back":
                await mailbox.move_item(alive[1], folders["INBOX"])
            case "purge":
                await mailbox.delete_item(alive[2], purge=True)
            case "delete":
                await mailbox.delete_item(alive[3])
            case "copy":
                items.append(await mailbox.copy_item(alive[0], folders["Sent"]))
            case "rename":
                await mailbox.rename_folder(folders["Sent"], f"Sent {self.done}")
            case "swap":
                await self._rotate(mailbox, "A", "B")
            case "cycle":
                await self._rotate(mailbox, "A", "B", "C")
            case "nest":
                await mailbox.move_folder(folders["B"], folders["A"], "inside")
            case "append-new-folder":
                folders["new"] = await mailbox.create_folder(f"New {self.done}")
                items.append(await mailbox.append(folders["new"], b"Subject: in a new folder\r\n\r\n"))
            case "delete-folder":
                await mailbox.delete_folder(folders["C"])
            case "setting":
                await mailbox.set_setting("rules", f'["{self.done}"]')
                await mailbox.set_setting("quota", None)
            case _:
                raise AssertionError(f"no verb {verb}")

    async def _rotate(self, mailbox: MemoryMailbox, *names: str) -> None:
        """The folders take each other's names, all in one go between two steps."""
        home = await self.world.at_home()
        ids = [self.filled.folders[name] for name in names]
        old = [home.folders[folder_id].name for folder_id in ids]
        await mailbox.rename_folder(ids[0], "aside")
        for at in range(1, len(ids)):
            await mailbox.rename_folder(ids[at], old[at - 1])
        await mailbox.rename_folder(ids[0], old[-1])


def _got(item_id: ItemId | None) -> ItemId:
    assert item_id is not None, "a first delivery was taken for a repeated one"
    return item_id


__all__ = ["WHILE_MOVING", "Script"]
