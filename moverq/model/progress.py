"""How far a running move is: a value its job publishes, for a callback in the process and for others by the ledger."""

import attrs

from moverq.model.ids import RequestId
from moverq.model.request import SyncStage


@attrs.frozen(kw_only=True)
class Progress:
    """One look at a running move. Rates are of this stage; None where nothing has been measured."""

    request_id: RequestId
    stage: SyncStage
    at_ms: int
    items: int = 0
    items_total: int = 0
    bytes: int = 0
    bytes_total: int = 0
    bytes_per_s: float | None = None
    eta_s: float | None = None
    backlog: int | None = None
    """Changes the target still lacks."""
    predicted_lock_ms: float | None = None


def seeding_progress(before: Progress, *, items: int, bytes_: int, elapsed_s: float, at_ms: int) -> Progress:
    """Progress of the bulk copy, with its rate and when it will be through."""
    rate = bytes_ / elapsed_s if elapsed_s > 0 else None
    left = max(0, before.bytes_total - bytes_)
    return attrs.evolve(
        before, items=items, bytes=bytes_, at_ms=at_ms, bytes_per_s=rate, eta_s=left / rate if rate else None
    )
