"""The facts of a move's ledger: what was durable when.

One row per kind per request, each with the token of the orchestrator that wrote it. A fact is written before the
side effect that it announces (`LockIntent`, `CommitIntent`, `PurgeAllowed`, `SeedWatermark`), or after the effect
that it observed (`TargetMade`, `SeedCursor`, `FeedWatermark`, `Committed`). A restart reads these and the
directory's register, and nothing else.
"""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

import attrs

from moverq.model.change import Watermark


@attrs.frozen(kw_only=True)
class Preflighted:
    """The move was looked at and nothing speaks against it."""

    kind: ClassVar[str] = "preflighted"
    epoch: int
    offline: bool
    fence: str
    items: int
    bytes: int
    costs: tuple[str, ...] = ()
    """What the endpoints cannot do, in sentences."""


@attrs.frozen(kw_only=True)
class TargetMade:
    """The sealed target exists. `fixed_ms`: what the final steps took when they were rehearsed on it."""

    kind: ClassVar[str] = "target_made"
    fixed_ms: float


@attrs.frozen(kw_only=True)
class OfflineLocked:
    """Offline path: the source is to be locked from here to the end of the move (announced)."""

    kind: ClassVar[str] = "offline_locked"


@attrs.frozen(kw_only=True)
class SeedWatermark:
    """Where the feed stood *before* the first listing. `generation` counts the listings of this move: a reseed
    starts the next one."""

    kind: ClassVar[str] = "seed_watermark"
    watermark: Watermark
    generation: int = 1


@attrs.frozen(kw_only=True)
class SeedCursor:
    """Everything up to the cursor is durable at the target and in the item map."""

    kind: ClassVar[str] = "seed_cursor"
    cursor: bytes
    done: bool
    generation: int = 1
    swept: bool = True
    """False while a reseed has still to look for what is at the target but no longer at the source."""


@attrs.frozen(kw_only=True)
class FeedWatermark:
    """The target durably holds everything up to here."""

    kind: ClassVar[str] = "feed_watermark"
    watermark: Watermark


@attrs.frozen(kw_only=True)
class Differed:
    """The sides differed although they had been compared anew, and an operator was asked. Whoever goes on from here
    goes on by the operator's wish, and compares them anew first."""

    kind: ClassVar[str] = "differed"
    at_ms: int


@attrs.frozen(kw_only=True)
class LockIntent:
    """The source is about to be locked for this attempt."""

    kind: ClassVar[str] = "lock_intent"
    attempt: int
    at_ms: int


@attrs.frozen(kw_only=True)
class CommitIntent:
    """The register is about to be changed from (source, epoch) to (target, epoch + 1). From here until the register
    has been read again nobody unlocks."""

    kind: ClassVar[str] = "commit_intent"
    epoch: int
    attempt: int
    at_ms: int
    lock_at_ms: int


@attrs.frozen(kw_only=True)
class Committed:
    """A note: the register was seen to name the target, at this epoch. The register is the fact."""

    kind: ClassVar[str] = "committed"
    epoch: int
    at_ms: int


@attrs.frozen(kw_only=True)
class CleanedUp:
    """The source is retired and the target open."""

    kind: ClassVar[str] = "cleaned_up"
    at_ms: int


@attrs.frozen(kw_only=True)
class SoakUntil:
    """The way back is kept open until then."""

    kind: ClassVar[str] = "soak_until"
    until_ms: int


@attrs.frozen(kw_only=True)
class ReverseWatermark:
    """The retired source durably holds everything of the target up to here."""

    kind: ClassVar[str] = "reverse_watermark"
    watermark: Watermark


@attrs.frozen(kw_only=True)
class StragglersSeen:
    """What came to the retired source past its lock is in the report up to here. Only where the fence is not of class
    A."""

    kind: ClassVar[str] = "stragglers_seen"
    watermark: Watermark


@attrs.frozen(kw_only=True)
class PurgeAllowed:
    """Both checks passed: the retired source may be soft-deleted. From here on there is no rollback to it."""

    kind: ClassVar[str] = "purge_allowed"
    at_ms: int
    keep_until_ms: int


@attrs.frozen(kw_only=True)
class SourceRemoved:
    """The source is soft-deleted, kept until then."""

    kind: ClassVar[str] = "source_removed"
    keep_until_ms: int


@attrs.frozen(kw_only=True)
class Purged:
    """The soft-deleted source is destroyed."""

    kind: ClassVar[str] = "purged"
    at_ms: int


Fact = (
    Preflighted
    | TargetMade
    | OfflineLocked
    | SeedWatermark
    | SeedCursor
    | FeedWatermark
    | Differed
    | LockIntent
    | CommitIntent
    | Committed
    | CleanedUp
    | SoakUntil
    | ReverseWatermark
    | StragglersSeen
    | PurgeAllowed
    | SourceRemoved
    | Purged
)

FACT_KINDS: tuple[type[Fact], ...] = (
    Preflighted,
    TargetMade,
    OfflineLocked,
    SeedWatermark,
    SeedCursor,
    FeedWatermark,
    Differed,
    LockIntent,
    CommitIntent,
    Committed,
    CleanedUp,
    SoakUntil,
    ReverseWatermark,
    StragglersSeen,
    PurgeAllowed,
    SourceRemoved,
    Purged,
)


F = TypeVar("F", bound=Fact)


@attrs.frozen
class Facts:
    """All facts of one request: what a restart knows."""

    by_type: Mapping[type, Fact] = attrs.field(factory=dict)

    def get(self, kind: type[F]) -> F | None:
        found = self.by_type.get(kind)
        return found if isinstance(found, kind) else None

    def need(self, kind: type[F]) -> F:
        """The fact that an earlier phase wrote. Its absence is a bug."""
        found = self.get(kind)
        assert found is not None, f"fact {kind.kind} is not there yet"
        return found

    def has(self, kind: type) -> bool:
        return kind in self.by_type

    def plus(self, *facts: Fact) -> "Facts":
        return Facts({**self.by_type, **{type(fact): fact for fact in facts}})

    def minus(self, *kinds: type) -> "Facts":
        return Facts({kind: fact for kind, fact in self.by_type.items() if kind not in kinds})
