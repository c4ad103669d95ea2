"""What a mail system says of its folders, as values: `Listed` is told, `Wanted` is asked."""

from collections.abc import Mapping
from typing import Final

import attrs

from moverq.model.ids import FolderId

PART_ITEMS: Final = 2_000
"""Of a folder, told at a time: 1 MiB."""


@attrs.define(kw_only=True)
class Listed:
    """A folder as its mail system lists it. The numbers are those of IMAP, or mean what they mean there."""

    wire: bytes
    selectable: bool = True
    special_use: str = ""
    subscribed: bool = False
    mailbox_object: bytes = b""
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    """By entry name, those that were asked for."""
    validity: int | None = None
    uidnext: int = 0
    modseq: int = 0
    items: int = 0

    @property
    def status(self) -> "Status | None":
        """None: it does not say when something changed, so nothing is known of it."""
        return (self.validity or 0, self.uidnext, self.modseq, self.items) if self.modseq else None


def annotations_of(attributes: Mapping[str, str]) -> dict[str, str]:
    """Of a folder's attributes: those whose names begin with a slash, as no other's does."""
    return {name: value for name, value in attributes.items() if name.startswith("/")}


Status = tuple[int, int, int, int]
"""UIDVALIDITY, UIDNEXT, HIGHESTMODSEQ and MESSAGES: as long as they stay, nothing in the folder has changed."""
Known = Mapping[bytes, tuple[Status, bytes]]
"""By the name there: a folder's status when it was last looked into, and its `mailbox_object`."""


@attrs.frozen(kw_only=True)
class Wanted:
    """A folder to look into, and up to where it is known. `modseq` 0: look at everything."""

    folder_id: FolderId
    wire: bytes
    modseq: int
    in_parts: Listed | None = None
    """As it was listed: what a look tells may be told in parts. None: all of it tells what it means."""
    is_again: bool = False
    """What it told before did not add up."""
