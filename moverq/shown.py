"""What the verbs of a root answer with: values, whose fields are the keys of the command line's JSON."""

from typing import TYPE_CHECKING, Any

import attrs

from moverq.directory.directory import DatabaseEntry
from moverq.model.progress import Progress
from moverq.model.standing import Standing

if TYPE_CHECKING:
    from moverq.endpoints.store import RebuildReport


@attrs.frozen(kw_only=True)
class FolderShown:
    """One folder of `moverq mailbox show`."""

    path: str
    items: int
    bytes: int
    uidvalidity: int
    uidnext: int
    special_use: str
    hidden: bool


@attrs.frozen(kw_only=True)
class MailboxShown:
    """The keys of `moverq mailbox show --json`, in the order they are shown."""

    address: str
    aliases: tuple[str, ...]
    mailbox_id: str
    database: str
    instance: str
    epoch: int
    guard: str
    items: int
    bytes: int
    folders: int
    quota_bytes: int | None
    settings: dict[str, str]
    """As JSON texts."""
    head: int
    active_move: str | None
    move_status: str
    folder_list: tuple[FolderShown, ...]

    def to_json(self) -> dict[str, Any]:
        return attrs.asdict(self)


@attrs.frozen
class Foreseen:
    """A database as the directory has it, or will have it once it is registered."""

    entry: DatabaseEntry
    is_registered: bool = attrs.field(default=True, kw_only=True)


@attrs.frozen(kw_only=True)
class InstanceShown:
    """One mailbox instance of a database. `known_to` None: neither directory nor ledger names it. It is never purged
    for that: absence proves nothing."""

    instance: str
    guard: str
    items: int
    bytes: int
    known_to: str | None


@attrs.frozen(kw_only=True)
class Rebuilt:
    """What a rebuild did. `opened`: mailboxes given back to their users; `held`: left to the moves they are in; `made`:
    those that the directory names and of which there was no item."""

    report: "RebuildReport"
    opened: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Look:
    """One request as `wait` and `worker` see it now."""

    standing: Standing
    progress: Progress | None
