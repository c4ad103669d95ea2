"""What can go wrong in a store, and what cures it.

StoreError                          remedy    reach
├── NoSuchMailbox, NoSuchFolder,    caller    call
│   NoSuchItem
├── Refused (why)                   caller    call        a name taken, a folder not empty, a bad setting
├── QuotaExceeded                   operator  mailbox
├── MailboxLocked                   wait      mailbox     its move is being finalized
├── MailboxMoved (home)             redirect  mailbox
├── MailboxSealed                   operator  mailbox     a move's target, or soft-deleted: no client may write
├── StaleToken (held, seen)         stop      mailbox
├── FeedTrimmed (after, horizon)    reseed    feed
├── StoreBusy (what)                wait      store       somebody needs the database alone
├── StoreFull                       operator  store
├── StoreClosed                     caller    store       our doing
├── StoreBroken                     operator  store       the world's doing; the outcome of a commit is unknown
└── Corruption (path, offset,       operator  file
      expected, found)
"""

from enum import Enum
from typing import ClassVar

import attrs


class Remedy(Enum):
    """Who or what cures an error."""

    CALLER = "caller"
    WAIT = "wait"
    REDIRECT = "redirect"
    RESEED = "reseed"
    OPERATOR = "operator"
    STOP = "stop"


@attrs.define(eq=False, kw_only=True)
class StoreError(Exception):
    """The root: every expected failure of a store."""

    remedy: ClassVar[Remedy] = Remedy.OPERATOR


@attrs.define(eq=False, kw_only=True)
class NoSuchMailbox(StoreError):
    remedy = Remedy.CALLER
    instance: bytes

    def __str__(self) -> str:
        return f"there is no mailbox instance {self.instance.hex()} in this database"


@attrs.define(eq=False, kw_only=True)
class NoSuchFolder(StoreError):
    remedy = Remedy.CALLER
    folder: str

    def __str__(self) -> str:
        return f"there is no folder {self.folder}"


@attrs.define(eq=False, kw_only=True)
class NoSuchItem(StoreError):
    remedy = Remedy.CALLER
    item: str

    def __str__(self) -> str:
        return f"there is no item {self.item}"


@attrs.define(eq=False, kw_only=True)
class Refused(StoreError):
    """What was asked for cannot be done; `why` is the whole sentence."""

    remedy = Remedy.CALLER
    why: str

    def __str__(self) -> str:
        return self.why


@attrs.define(eq=False, kw_only=True)
class QuotaExceeded(StoreError):
    remedy = Remedy.OPERATOR
    quota_bytes: int
    used_bytes: int
    size: int

    def __str__(self) -> str:
        return (
            f"{self.size:,} bytes do not fit: {self.used_bytes:,} of {self.quota_bytes:,} are used; "
            f"delete something or raise the quota"
        )


@attrs.define(eq=False, kw_only=True)
class MailboxLocked(StoreError):
    remedy = Remedy.WAIT
    instance: bytes

    def __str__(self) -> str:
        return "the mailbox is locked while its move is finalized; try again in a moment"


@attrs.define(eq=False, kw_only=True)
class MailboxMoved(StoreError):
    remedy = Remedy.REDIRECT
    instance: bytes
    home: str

    def __str__(self) -> str:
        return f"the mailbox has moved to {self.home}"


@attrs.define(eq=False, kw_only=True)
class MailboxSealed(StoreError):
    remedy = Remedy.OPERATOR
    instance: bytes
    why: str

    def __str__(self) -> str:
        return f"mailbox instance {self.instance.hex()} takes no writes of clients: {self.why}"


@attrs.define(eq=False, kw_only=True)
class StaleToken(StoreError):
    remedy = Remedy.STOP
    held: int
    seen: int

    def __str__(self) -> str:
        return f"token {self.held} is stale, {self.seen} was seen"


@attrs.define(eq=False, kw_only=True)
class FeedTrimmed(StoreError):
    remedy = Remedy.RESEED
    after: str
    horizon: str

    def __str__(self) -> str:
        return f"the change feed starts at {self.horizon}; it cannot be followed from {self.after}"


@attrs.define(eq=False, kw_only=True)
class StoreBusy(StoreError):
    remedy = Remedy.WAIT
    path: str
    why: str

    def __str__(self) -> str:
        return f"database {self.path} is in use: {self.why}"


@attrs.define(eq=False, kw_only=True)
class StoreFull(StoreError):
    remedy = Remedy.OPERATOR
    path: str
    why: str

    def __str__(self) -> str:
        return f"cannot write to {self.path}: {self.why}; nothing acknowledged is lost, make room and try again"


@attrs.define(eq=False, kw_only=True)
class StoreClosed(StoreError):
    remedy = Remedy.CALLER
    path: str

    def __str__(self) -> str:
        return f"database {self.path} has been closed"


@attrs.define(eq=False, kw_only=True)
class StoreBroken(StoreError):
    remedy = Remedy.OPERATOR
    path: str
    why: str

    def __str__(self) -> str:
        return f"database {self.path}: {self.why}"


@attrs.define(eq=False, kw_only=True)
class Corruption(StoreError):
    remedy = Remedy.OPERATOR
    path: str
    offset: int
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path} is damaged at byte {self.offset:,}: expected {self.expected}, found {self.found}"
