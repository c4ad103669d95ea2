"""What a removed mailbox is to be found by: whose it was. Kept in the mailbox, for the directory has forgotten it."""

import json
from typing import Self

import attrs

from moverq.model.ids import MailboxId


@attrs.frozen(kw_only=True)
class Label:
    """The mailbox, its addresses, and when it was removed. Its id too: one that was rebuilt from content alone does not
    know it."""

    mailbox_id: MailboxId
    address: str
    aliases: tuple[str, ...]
    removed_ms: int

    def to_text(self) -> str:
        return json.dumps({**attrs.asdict(self), "mailbox_id": self.mailbox_id.hex()}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """None: it is none of ours."""
        try:
            found = json.loads(text)
            return cls(
                mailbox_id=MailboxId(bytes.fromhex(found["mailbox_id"])),
                address=str(found["address"]),
                aliases=tuple(map(str, found["aliases"])),
                removed_ms=int(found["removed_ms"]),
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
