"""The move's report: what happened, in order, for whoever is asked about it later.

The ledger keeps it as entries, each written in the transaction of the fact it belongs to, so that the report never
tells of something that did not happen. An entry has a kind, a date and a payload of plain values; a plain line is an
entry like any other. `MoveReport` is all entries of one request, gathered by kind, with Get-MoveRequestStatistics'
words in snake_case; it can be shown as JSON or as text.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import attrs

from moverq.model.statistics import MoveStatistics, iso
from moverq.words import counted


class EntryKind(Enum):
    LINE = "line"
    VERSIONS = "versions"
    """What the version pair decided, and the source of the rule."""
    CAPABILITIES = "capabilities"
    """Fence class and what the endpoints cost."""
    STAGE = "stage"
    """One stretch of work in one stage: start, end, items, bytes, rate."""
    LOCK_ATTEMPT = "lock_attempt"
    """Each phase of it in ms, and why it ended."""
    BAD_ITEM = "bad_item"
    WARNING = "warning"
    STRAGGLER = "straggler"
    FAILURE = "failure"
    DIGESTS = "digests"
    REGISTER = "register"
    """What the directory was seen to say after a commit or a doubt."""

    @property
    def is_kept(self) -> bool:
        """Whether trimming a long report leaves it alone."""
        return self not in (EntryKind.LINE, EntryKind.STAGE)


@attrs.frozen(kw_only=True)
class ReportEntry:
    """One thing that happened. `text` is a sentence; `data` the same for programs."""

    at_ms: int
    kind: EntryKind
    text: str
    data: Mapping[str, Any] = attrs.field(factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"timestamp": iso(self.at_ms), "kind": self.kind.value, "text": self.text, **self.data}


@attrs.frozen(kw_only=True)
class MoveReport:
    """Everything about one request."""

    statistics: MoveStatistics
    entries: tuple[ReportEntry, ...]

    def of(self, kind: EntryKind) -> Sequence[ReportEntry]:
        return [entry for entry in self.entries if entry.kind is kind]

    def to_json(self) -> dict[str, Any]:
        def gathered(kind: EntryKind) -> list[dict[str, Any]]:
            return [{"timestamp": iso(e.at_ms), **e.data} for e in self.of(kind)]

        def last(kind: EntryKind) -> dict[str, Any] | None:
            found = self.of(kind)
            return dict(found[-1].data) if found else None

        return {
            **self.statistics.to_json(),
            "report": {
                "versions": last(EntryKind.VERSIONS),
                "capabilities": last(EntryKind.CAPABILITIES),
                "stages": gathered(EntryKind.STAGE),
                "lock_attempts": gathered(EntryKind.LOCK_ATTEMPT),
                "bad_items": gathered(EntryKind.BAD_ITEM),
                "warnings": [e.text for e in self.of(EntryKind.WARNING)],
                "stragglers": gathered(EntryKind.STRAGGLER),
                "failures": gathered(EntryKind.FAILURE),
                "digests": last(EntryKind.DIGESTS),
                "register": gathered(EntryKind.REGISTER),
                "entries": [e.to_json() for e in self.entries],
            },
        }

    def to_text(self) -> str:
        """For people: a head of what matters, then every entry with its date."""
        stats = self.statistics
        limit = "unlimited" if stats.bad_item_limit is None else str(stats.bad_item_limit)
        head = [
            f"Move of {stats.address}: {stats.source_database} -> {stats.target_database} ({stats.request_id})",
            f"  status        {stats.status} ({stats.sync_stage}, {stats.percent_complete} %)",
            f"  transferred   {counted(stats.items_transferred, 'item')}, {counted(stats.bytes_transferred, 'byte')}, "
            f"{counted(stats.changes_applied, 'change')} followed",
            f"  bad items     {stats.bad_items_encountered} of {limit} allowed",
        ]
        if stats.message:
            head.append(f"  message       {stats.message}")
        if stats.lock_ms is not None:
            head.append(
                f"  locked for    {stats.lock_ms:.0f} ms (budget {stats.lock_budget_ms} ms), "
                f"attempt {stats.lock_attempts}"
            )
        if stats.digest_source is not None:
            head.append(f"  digests       source {stats.digest_source}")
            head.append(f"                target {stats.digest_target}")
            head.append(f"                ledger {stats.digest_ledger}")
        lines = [f"{iso(entry.at_ms)}  {entry.text}" for entry in self.entries]
        return "\n".join([*head, "", *lines, ""])
