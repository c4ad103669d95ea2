"""Every bound of moverq, and the sums that relate them.

One value rather than constants all over: a test makes its own with small batches, an operator's site may lower the
numbers of a weak server, and the sums are checked where the value is made. Names of bounds that administrators know
from MSExchangeMailboxReplication.exe.config are kept, in their 2010 SP1 defaults (`docs/reference`, limits).

The sums:
- A move holds at most `move_bytes_max` = one batch in the reader's hand + `seed_ahead_bytes_max` between the reader
  and the writer + two batches in the writer's hand. `process_bytes_max` bounds all moves together, so it must hold
  at least one move; more moves than fit wait for each other in `flow.byte_budget`.
- An item larger than a bound goes alone, so each sum is exceeded by at most one item.
- Inside the lock at most `locked_changes_max` changes are still to be carried: what the gate lets through.
"""

import attrs

MIB = 1 << 20


@attrs.frozen(kw_only=True)
class Limits:
    """All bounds. Bytes are of content; what a state costs beside it is small and bounded by the items."""

    batch_bytes_max: int = 8 * MIB
    """A seed page and a fetch: large enough that a batch's fixed costs vanish, small enough to cancel quickly."""
    batch_items_max: int = 512
    seed_ahead_bytes_max: int = 8 * MIB
    """Read but not yet written: the reader works on batch k+1 while the writer syncs batch k."""
    pages_at_once_max: int = 4
    """Pages of all moves together on their way into one target database that has one writer: what keeps it and the
    interpreter busy. More would only stand in each other's way, and in that of a mailbox that is locked."""
    cutovers_at_once_max: int = 4
    """Mailboxes locked together for one target database: each step of a cutover waits for those of the others."""
    process_bytes_max: int = 256 * MIB
    feed_changes_max: int = 1000
    """Changes in one read of the feed."""
    locked_changes_max: int = 10_000
    """The gate never lets a larger backlog into the lock, however fast it was measured."""

    gate_factor: float = 1.5
    """Predicted lock time = backlog / measured rate x this + the fixed part."""
    gate_rounds_max: int = 3
    """Rounds in a row that do not shrink the backlog before `CannotConverge` is said."""
    gate_rate_default: float = 500.0
    """Changes a second assumed where nothing has been measured yet: well below what any endpoint of ours does."""
    fixed_lock_ms_min: int = 20
    """The rehearsal may be luckier than the real thing: never predict less for the final steps."""

    max_active_moves_per_source_mdb: int = 5
    max_active_moves_per_target_mdb: int = 2
    max_active_moves_per_source_server: int = 50
    max_active_moves_per_target_server: int = 5
    max_total_moves_per_mrs: int = 100
    max_quiet_moves_per_mrs: int = 100
    """Likewise of those that only wait: soak, or follow until an operator's word or date. Where there are more they
    take turns; those that copy are held up by none of them."""
    quiet_turn_s: float = 30.0
    """How long one of them has its turn at least, where others want theirs."""

    worker_processes_max: int = 4
    """Of one `moverq worker`. More than the limits above would give each a part of would have nothing to do, and the
    databases' writers nothing to spare."""

    max_retries: int = 60
    """Times in a row a job enters again without getting on before it is Failed."""
    retry_delay_s: float = 30.0
    retry_delay_max_s: float = 900.0
    """MaxStallRetryPeriod: the backoff grows up to this."""
    busy_part_s: float = 3600.0
    """How long one part of an endpoint, as a folder that somebody holds, may stay busy before the job is Failed,
    however well it gets on meanwhile with the rest. Twice `retry_delay_max_s` at least, to be seen again within it."""
    final_passes_max: int = 50
    """Reads of the feed while draining under the lock before the attempt is given up."""
    reverse_interval_s: float = 60.0
    """In the soak the reverse feed rests this long after an error before it tries again."""

    lock_budget_ms_max: int = 24 * 3_600_000
    """Of one request. The budget is there so that a cutover that hangs does not."""
    bad_item_limit_unconfirmed_max: int = 50
    """From 51 on `--accept-large-data-loss` is needed, as AcceptLargeDataLoss."""
    quarantine_item_bytes_max: int = 256 * MIB
    """Of a bad item's raw bytes, so much is kept for the operator."""
    report_entries_max: int = 10_000
    """Of one request; the oldest plain lines go first, never a bad item or a lock attempt."""
    stop_deadline_s: float = 10.0
    """What jobs get to reach a safe point when the worker stops; what is cut short goes on from the ledger."""
    progress_interval_s: float = 1.0
    """Between two writes of a running move's progress to the ledger."""
    poll_wishes_s: float = 60.0
    """A waiting job looks again after this long even if nobody told it of a change."""

    lmtp_message_bytes_max: int = 64 * MIB
    """What the LMTP listener announces as SIZE."""
    lmtp_bytes_max: int = 256 * MIB
    """Of messages in all sessions of a listener together; four times a message's declared size is held for it, so
    that one at least fits whatever a client declares."""
    lmtp_connections_max: int = 100
    lmtp_recipients_max: int = 1000
    """Of one message; the client sends it once more for the rest. RFC 5321 asks for 100."""
    lmtp_idle_s: float = 300.0
    """Without a word from the client, or without it taking one: RFC 5321 §4.5.3.2.7."""
    lmtp_lock_wait_s: float = 2.0
    """A delivery waits this long for a lock to end before it is deferred: twice the lock budget of a move, so that a
    cutover delays mail by milliseconds rather than by the MTA's next queue run."""

    def __attrs_post_init__(self) -> None:
        if self.move_bytes_max > self.process_bytes_max:
            raise ValueError(
                f"process_bytes_max {self.process_bytes_max} cannot hold even one move of {self.move_bytes_max}"
            )
        if 2 * self.lmtp_message_bytes_max > self.lmtp_bytes_max:
            raise ValueError(
                f"lmtp_bytes_max {self.lmtp_bytes_max} cannot hold one message, as it comes and as it is kept"
            )
        if self.busy_part_s < 2 * self.retry_delay_max_s:
            raise ValueError(f"busy_part_s {self.busy_part_s} ends before a job has tried again")
        if self.gate_factor < 1.0:
            raise ValueError("gate_factor below 1 would promise a shorter lock than was measured")

    @property
    def move_bytes_max(self) -> int:
        """What one move holds in memory at most."""
        return 3 * self.batch_bytes_max + self.seed_ahead_bytes_max
