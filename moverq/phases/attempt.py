"""A lock attempt: how long the mailbox has been locked, and what took how much of it.

It begins with the lock and ends when the target is open or the source is given back, which are in different phases.
"""

import attrs
import trio

from moverq.model.report import EntryKind, ReportEntry
from moverq.phases.tenure import Tenure


@attrs.define(eq=False)
class Attempt:
    """One lock attempt: its clock, and what each part of it took."""

    number: int
    begun: float = attrs.field(factory=trio.current_time)
    parts_ms: dict[str, float] = attrs.field(factory=dict)
    _last: float = attrs.field(factory=trio.current_time)

    def mark(self, part: str) -> None:
        """`part` ends now."""
        now = trio.current_time()
        self.parts_ms[part] = (now - self._last) * 1000
        self._last = now

    @property
    def lock_ms(self) -> float:
        """Up to the end of its last part."""
        return (self._last - self.begun) * 1000

    def entry(self, t: Tenure, outcome: str) -> ReportEntry:
        parts = ", ".join(f"{name} {ms:.1f}" for name, ms in self.parts_ms.items())
        return t.entry(
            EntryKind.LOCK_ATTEMPT,
            f"Lock attempt {self.number}: {self.lock_ms:.1f} ms ({parts}): {outcome}",
            attempt=self.number,
            lock_ms=self.lock_ms,
            phases_ms=dict(self.parts_ms),
            outcome=outcome,
        )
