"""The decoders of what moverq keeps in SQLite: the ledger's values, a seed's cursor, and SQLite's own log."""

import random
import struct
from typing import Any

import msgpack

from moverq.endpoints.base import Home
from moverq.endpoints.store import place_of
from moverq.errors import MoveError
from moverq.flow.sqlite import _wal_sums, wal_transactions_lost
from moverq.ledger.codec import Codec
from moverq.model.change import FolderState, Watermark
from moverq.model.facts import FACT_KINDS
from moverq.model.ids import FolderId, InstanceId
from moverq.model.progress import Progress
from moverq.model.request import MoveRequest, SyncStage
from moverq.model.standing import Counters
from tests.fuzz.decoder import REFUSED, TAKEN, Decoder, buffered

CODEC = Codec()
PROGRESS = {"request_id": "r", "stage": SyncStage.QUEUED, "at_ms": 1}
KINDS = (*FACT_KINDS, MoveRequest, Counters, Progress, tuple[FolderState, ...], dict[str, Any])


def judge_value(data: bytes) -> str:
    """The first byte says as what the rest is read; what is read is the same again when it is written and read."""
    if not data:
        return REFUSED
    kind = KINDS[data[0] % len(KINDS)]
    try:
        found = CODEC.unpack(data[1:], kind)
    except MoveError as refusal:
        assert str(refusal)
        return REFUSED
    assert said(CODEC.unpack(CODEC.pack(found), kind)) == said(found)
    return TAKEN


def said(value: object) -> str:
    """A value in words, in which NaN is itself; an empty mapping that was left out is one that was written."""
    return repr(value).replace("mappingproxy({})", "{}")


def values() -> tuple[bytes, ...]:
    home, watermark = Home("DB1", InstanceId(b"i" * 16)), Watermark(b"t" * 16, InstanceId(b"i" * 16), 9)
    request = {
        "request_id": "r", "idempotency_key": "k", "mailbox_id": b"m", "address": "a@b", "source": home,
        "target_database": "DB2", "target_instance": b"j" * 16, "queued_ms": 1,
    }  # fmt: skip
    known = {"watermark": watermark, "cursor": b"c", "fence": "A", "offline": False, "done": True, "fixed_ms": 1.5}
    made: list[object] = []
    for kind in FACT_KINDS:
        fields = [field.name for field in kind.__attrs_attrs__ if field.default is not None and field.default != 1]
        made.append(kind(**{name: known.get(name, 7) for name in fields if name not in ("costs", "swept")}))
    folder = FolderState(FolderId(b"f" * 16), None, "INBOX", 1, 2, 3)
    made += [MoveRequest(**request), Counters(lock_ms=1.5), Progress(**PROGRESS), [folder], {"a": [1, "b"]}]
    return tuple(bytes([number]) + CODEC.pack(value) for number, value in enumerate(made))


# ---- where a seed goes on


def judge_cursor(data: bytes) -> str:
    try:
        stage, after = place_of(data)
    except MoveError as refusal:
        assert str(refusal)
        return REFUSED
    assert (stage, type(after)) in (("items", bytes), ("keys", int))
    return TAKEN


# ---- the log of SQLite


def wal(transactions: int, *, page: int = 512, seed: int = 1) -> bytes:
    """A write-ahead log as SQLite writes it, of so many transactions of two pages."""
    rng = random.Random(seed)
    header = struct.pack(">6I", 0x377F0682, 3007000, page, 0, 7, 8)
    sums = _wal_sums((0, 0), header[:8], header[8:], 0x377F0682)
    raw = header + struct.pack(">2I", *sums)
    for number in range(2 * transactions):
        head = struct.pack(">2I", number + 1, number if number % 2 else 0)
        body = rng.randbytes(page)
        sums = _wal_sums(sums, head, body, 0x377F0682)
        raw += head + struct.pack(">4I", 7, 8, *sums) + body
    return raw


def judge_wal(data: bytes) -> str:
    """How many transactions are lost is never more than the bytes have room for, whatever SQLite counted."""
    outcome = TAKEN
    for frames in (0, 1, 4):
        lost = wal_transactions_lost(buffered(data), frames)
        assert 0 <= lost <= len(data) // 24
        outcome = REFUSED if lost else outcome
    return outcome


DECODERS = (
    Decoder("ledger-value", judge_value, values()),
    Decoder(
        "seed-cursor", judge_cursor, (msgpack.packb(("items", b"an item's id....")), msgpack.packb(("keys", 1 << 40)))
    ),
    Decoder("sqlite-log", judge_wal, (wal(4), wal(2), wal(3)[:1500] + bytes(2000))),
)
