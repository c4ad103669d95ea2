"""What can go wrong with a move, and what cures it.

Each class answers two questions as class attributes: its `remedy` (wait < reseed < operator) and its `reach`.
Together they *are* the retry policy: `job` acts on them by entering the phase again, and nothing else retries. What a
phase may skip is no error but a `BadItem`, counted.

    MoveError                                    remedy     reach
    ├── EndpointUnavailable                      wait       endpoint
    ├── EndpointBusy (retry_after_s)             wait       endpoint
    ├── MailboxLocked                       wait       mailbox     guard refuses clients for the moment
    ├── MailboxMoved (home)                 redirect   mailbox     guard points elsewhere
    ├── SourceChanged, FeedTrimmed               reseed     move
    ├── TooManyBadItems                          operator   move
    ├── CutoverAborted (why)                     wait       move        the source was given back
    ├── CannotConverge                           operator   move
    ├── VerificationFailed (discrepancies)       operator   move
    ├── StaleToken (held, seen)                  stop       move        somebody with a higher token took over
    ├── RegisterChanged (expected, present)      operator   move
    ├── EndpointBroken                           operator   endpoint    the store says it cannot go on
    ├── RequestRefused                           operator   request     in words
    └── NotFound (kind, name)                    caller     call
"""

from enum import IntEnum
from typing import ClassVar

import attrs

from moverq.words import counted


class Remedy(IntEnum):
    """What cures an error, weakest first; the strongest of a group decides."""

    CALLER = 1
    REDIRECT = 2
    WAIT = 3
    RESEED = 4
    OPERATOR = 5
    STOP = 6
    """Nothing to cure: this orchestrator is no longer the one; it touches nothing more."""


@attrs.define(eq=False, kw_only=True)
class MoveError(Exception):
    """The root: every expected failure of a move."""

    remedy: ClassVar[Remedy] = Remedy.OPERATOR
    reach: ClassVar[str] = "move"


@attrs.define(eq=False, kw_only=True)
class EndpointUnavailable(MoveError):
    """The mail system behind an endpoint does not answer."""

    remedy = Remedy.WAIT
    reach = "endpoint"
    endpoint: str
    why: str

    def __str__(self) -> str:
        return f"{self.endpoint} cannot be reached: {self.why}"


@attrs.define(eq=False, kw_only=True)
class EndpointBusy(MoveError):
    """The mail system asks for patience."""

    remedy = Remedy.WAIT
    reach = "endpoint"
    endpoint: str
    retry_after_s: float
    why: str = ""
    """The endpoint's own words, where it had any."""
    part: str = ""
    """What of it is busy, where the rest is not: a folder that somebody holds. Such a thing ends soon, or not by
    waiting (`busy_part_s`)."""

    def __str__(self) -> str:
        said = f" ({self.why})" if self.why else ""
        return f"{self.endpoint} is busy{said} and asks to be tried again in {self.retry_after_s:.0f} s"


@attrs.define(eq=False, kw_only=True)
class EndpointBroken(MoveError):
    """The mail system needs an operator: disk full, damage, no permission."""

    remedy = Remedy.OPERATOR
    reach = "endpoint"
    endpoint: str
    why: str

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.why}"


@attrs.define(eq=False, kw_only=True)
class MailboxLocked(MoveError):
    """The mailbox refuses clients for the moment (it is being finalized)."""

    remedy = Remedy.WAIT
    reach = "mailbox"
    mailbox: str

    def __str__(self) -> str:
        return f"mailbox {self.mailbox} is locked while its move is finalized; try again in a moment"


@attrs.define(eq=False, kw_only=True)
class MailboxMoved(MoveError):
    """The mailbox lives elsewhere now."""

    remedy = Remedy.REDIRECT
    reach = "mailbox"
    mailbox: str
    home: str

    def __str__(self) -> str:
        return f"mailbox {self.mailbox} has moved to {self.home}"


@attrs.define(eq=False, kw_only=True)
class FeedTrimmed(MoveError):
    """The change feed no longer reaches back to the watermark, or the watermark is of another timeline."""

    remedy = Remedy.RESEED
    watermark: str
    horizon: str

    def __str__(self) -> str:
        return (
            f"the feed starts at {self.horizon}, the target stands at {self.watermark}; the copy must be compared anew"
        )


@attrs.define(eq=False, kw_only=True)
class SourceChanged(MoveError):
    """The source is not the mailbox the move began with."""

    remedy = Remedy.RESEED
    why: str

    def __str__(self) -> str:
        return f"the source changed under the move: {self.why}"


@attrs.define(eq=False, kw_only=True)
class TooManyBadItems(MoveError):
    """More items cannot move than the request allows."""

    remedy = Remedy.OPERATOR
    limit: int
    encountered: int

    def __str__(self) -> str:
        return (
            f"{counted(self.encountered, 'bad item')}, and the request allows {self.limit}; "
            f"see `moverq move report`, then resume with a higher --bad-item-limit or repair the items"
        )


@attrs.define(eq=False, kw_only=True)
class CutoverAborted(MoveError):
    """The finalize was given up before its commit intent; the source is (or will be) open again."""

    remedy = Remedy.WAIT
    why: str

    def __str__(self) -> str:
        return f"finalize given up, the source goes on working: {self.why}"


@attrs.define(eq=False, kw_only=True)
class CannotConverge(MoveError):
    """The mailbox changes faster than it can be followed."""

    remedy = Remedy.OPERATOR
    change_rate: float
    copy_rate: float

    def __str__(self) -> str:
        return (
            f"the mailbox changes at {self.change_rate:.0f} changes/s and is followed at {self.copy_rate:.0f}; "
            f"need more than {self.change_rate * 1.5:.0f} changes/s to finish: try at a quieter hour or with --offline"
        )


@attrs.define(eq=False, kw_only=True)
class VerificationFailed(MoveError):
    """Source, target and ledger do not say the same; the source was given back."""

    remedy = Remedy.OPERATOR
    discrepancies: tuple[str, ...]

    def __str__(self) -> str:
        more = f" (and {len(self.discrepancies) - 3} more)" if len(self.discrepancies) > 3 else ""
        return "verification found differences: " + "; ".join(self.discrepancies[:3]) + more


@attrs.define(eq=False, kw_only=True)
class StaleToken(MoveError):
    """A higher token was seen: another orchestrator has taken this move over."""

    remedy = Remedy.STOP
    held: int
    seen: int

    def __str__(self) -> str:
        return f"this orchestrator holds token {self.held}, but {self.seen} is at work; it stops here"


@attrs.define(eq=False, kw_only=True)
class RegisterChanged(MoveError):
    """Compare-and-set on the directory's register found something else."""

    remedy = Remedy.OPERATOR
    expected: str
    present: str

    def __str__(self) -> str:
        return f"the directory says {self.present}, expected was {self.expected}"


@attrs.define(eq=False, kw_only=True)
class RequestRefused(MoveError):
    """What was asked for cannot be done; the sentence says why and what to do instead."""

    remedy = Remedy.OPERATOR
    reach = "request"
    why: str

    def __str__(self) -> str:
        return self.why


@attrs.define(eq=False, kw_only=True)
class ServedElsewhere(RequestRefused):
    """The database is a mail system that serves its mailboxes itself. A delivery waits: where mail goes is the MTA's
    to be told, and the message is not at fault."""

    remedy = Remedy.REDIRECT
    reach = "mailbox"


@attrs.define(eq=False, kw_only=True)
class NotFound(MoveError):
    """No such address, database, server, request or mailbox."""

    remedy = Remedy.CALLER
    reach = "call"
    kind: str
    name: str

    def __str__(self) -> str:
        return f"there is no {self.kind} {self.name}"


def leaves(error: BaseException) -> list[BaseException]:
    """The errors inside nested exception groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def remedy_for(error: BaseException) -> Remedy:
    """The strongest remedy any leaf asks for; a bug asks for the operator."""
    return max(leaf.remedy if isinstance(leaf, MoveError) else Remedy.OPERATOR for leaf in leaves(error))
