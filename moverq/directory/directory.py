"""The contract of the directory service, and its values.

Organisation, sites, servers (with product version), databases, recipients. Each recipient has the **register**
(home, epoch), and *it alone decides where a mailbox is*: it changes only by compare-and-set, epoch plus one. Beside
it the token counter (per recipient, never reset: a move, or an orchestrator taking one over, takes the next) and the
`active_move` claim, both by compare-and-set, so that tokens of different ledgers and hosts never collide. The move
attributes are what an administrator looks for on the user; nothing reads them to decide.

One contract suite (`tests/contract/test_directory.py`) runs on every back end. Every write is durable on return: a
register that falls back is two open mailboxes.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from moverq.endpoints.base import Home
from moverq.errors import NotFound, RegisterChanged, RequestRefused
from moverq.model.ids import MailboxId, RequestId


@attrs.frozen
class Register:
    """Where a mailbox is, and how often that has been decided."""

    home: Home
    epoch: int

    def __str__(self) -> str:
        return f"({self.home}, epoch {self.epoch})"


@attrs.frozen(kw_only=True)
class Server:
    """A server: databases live on it, and its product version decides which moves are online."""

    name: str
    version: str
    """As administrators say it: "2003", "2007", "2007 SP2", "2010", …"""
    site: str = "Default-First-Site-Name"


@attrs.frozen(kw_only=True)
class DatabaseEntry:
    """A database by name: which server hosts it, and where it lies there."""

    name: str
    server: str
    path: str


@attrs.frozen(kw_only=True)
class MoveAttributes:
    """What the directory shows on the user while and after a move (Exchange's msExchMailboxMove… attributes)."""

    status: str = "None"
    batch_name: str | None = None
    source_database: str | None = None
    target_database: str | None = None


@attrs.frozen(kw_only=True)
class Recipient:
    """A recipient as the directory has it."""

    mailbox_id: MailboxId
    address: str
    aliases: tuple[str, ...]
    register: Register
    token: int
    """The highest token handed out so far; 0: none yet."""
    active_move: RequestId | None
    quota_bytes: int | None
    move: MoveAttributes


class Directory(Protocol):
    """Addresses are compared by `normalize_address`: domain in lower case, local part too (RFC 5321 §2.4 lets the
    host decide; this organisation does)."""

    async def organisation(self) -> str:
        """The organisation's name."""
        ...

    async def add_server(self, server: Server) -> None:
        """Raises `RequestRefused` where the name is taken."""
        ...

    async def add_database(self, database: DatabaseEntry) -> None:
        """Raises `RequestRefused` where the name is taken, `NotFound` where there is no such server."""
        ...

    async def set_database_path(self, name: str, path: str) -> None:
        """The database lies there now. Raises `NotFound`."""
        ...

    async def remove_server(self, name: str) -> None:
        """Raises `NotFound`; `RequestRefused` where a database is on it."""
        ...

    async def remove_database(self, name: str) -> None:
        """Raises `NotFound`; `RequestRefused` where a mailbox is at home there."""
        ...

    async def add_recipient(
        self, mailbox_id: MailboxId, address: str, home: Home, *, quota_bytes: int | None = None, token: int = 0
    ) -> Recipient:
        """A new recipient at epoch 1. `token`: the highest that its mailbox has seen, of one that was here before.

        Raises:
            RequestRefused: the address is taken or no address, or the mailbox has a recipient.
            NotFound: the directory has no such database.
        """
        ...

    async def remove_recipient(self, mailbox_id: MailboxId, *, expected: Register) -> None:
        """The recipient is gone, and all its addresses with it.

        Raises:
            RegisterChanged: its register is not `expected`; nothing changed.
            RequestRefused: a move has claimed it.
            NotFound: there is no such recipient.
        """
        ...

    async def add_alias(self, mailbox_id: MailboxId, alias: str) -> None:
        """One more address; its own again is fine. Raises `RequestRefused` where it is taken."""
        ...

    async def server(self, name: str) -> Server:
        """Raises `NotFound`."""
        ...

    async def database(self, name: str) -> DatabaseEntry:
        """Raises `NotFound`."""
        ...

    async def servers(self) -> Sequence[Server]: ...

    async def databases(self) -> Sequence[DatabaseEntry]: ...

    async def recipients(self, *, after: str = "", limit: int = 1000) -> Sequence[Recipient]:
        """By primary address, a page at a time."""
        ...

    async def recipient(self, mailbox_id: MailboxId) -> Recipient:
        """Raises `NotFound`."""
        ...

    async def locate(self, address: str) -> Recipient:
        """By primary address or alias. Raises `NotFound`."""
        ...

    async def relocate(self, mailbox_id: MailboxId, *, expected: Register, home: Home) -> Register:
        """Compare-and-set of the register to (home, expected.epoch + 1): the commit point of a move.

        Raises:
            RegisterChanged: it is not `expected`; nothing changed. A caller whose own earlier attempt may have
                won reads the register again and compares.
            NotFound: there is no such recipient, or no such database to go to.
        """
        ...

    async def take_token(self, mailbox_id: MailboxId) -> int:
        """The next token; no other caller ever gets the same."""
        ...

    async def claim_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        """`active_move`: None → request_id; its own claim again is fine. Raises `RequestRefused` naming the other."""
        ...

    async def release_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        """`active_move`: request_id → None; somebody else's claim is left alone."""
        ...

    async def set_move(self, mailbox_id: MailboxId, move: MoveAttributes) -> None: ...

    async def aclose(self) -> None: ...


ADDRESS_BYTES_MAX = 254
"""RFC 5321, section 4.5.3.1.3: a path of 256 bytes, with its angle brackets."""
NOT_IN_ADDRESSES = frozenset("/\x7f")


def normalize_address(address: str) -> str:
    """The form addresses are compared in. Raises `ValueError` with a sentence where it is no address.

    Names of files are made of its parts, so none of them leads to another place.
    """
    text = address.strip()
    local, at, domain = text.rpartition("@")
    in_brackets = text[:1] == "<" and text[-1:] == ">"
    if (
        not (at and local and domain)
        or in_brackets
        or any(ch.isspace() or ord(ch) < 32 or ch in NOT_IN_ADDRESSES for ch in text)
    ):
        raise ValueError(f"{address!r} is not an address: it needs the form name@domain")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{address!r} is not an address: it is not UTF-8") from None
    if {local, domain} & {".", ".."} or size > ADDRESS_BYTES_MAX:
        raise ValueError(f"{address!r} is not an address that mail can have")
    return f"{local.lower()}@{domain.lower()}"


def checked_address(address: str) -> str:
    """The normal form, for an address to be stored. Raises `RequestRefused` where it is no address."""
    try:
        return normalize_address(address)
    except ValueError as error:
        raise RequestRefused(why=str(error)) from error


def still_used(kind: str, name: str, first: str, many: int) -> RequestRefused:
    """What is to be removed has something on it or in it: `first`, and others."""
    more = f" and {many - 1:,} more" if many > 1 else ""
    return RequestRefused(why=f"the {kind} {name} is in use: by {first}{more}; nothing was changed")


def check_removable(recipient: Recipient, expected: Register) -> None:
    """Raises `RegisterChanged`, and `RequestRefused` where a move has claimed it."""
    if recipient.register != expected:
        raise RegisterChanged(expected=str(expected), present=str(recipient.register))
    if recipient.active_move is not None:
        raise RequestRefused(why=f"{recipient.address} is being moved by request {recipient.active_move}")


def sought_address(address: str) -> str:
    """The normal form, for an address that is looked for. Raises `NotFound`: nobody has one that is none."""
    try:
        return normalize_address(address)
    except ValueError as error:
        raise NotFound(kind="recipient", name=address) from error
