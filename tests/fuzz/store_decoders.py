"""The store's decoders: frames, records, segments, generation headers, logs, seals.

A checksum turns nearly every mutated input away before anything else looks at it. So the first byte of an input says
whether the checksums in the rest are to be made right again: then what is behind them is reached, as it would be by
bytes that a broken program wrote and signed.
"""

import struct
from functools import cache
from itertools import repeat
from pathlib import Path

import apsw
import msgpack
import xxhash

from store import frame, records
from store.catalogue.apply import Applier
from store.catalogue.schema import make_catalogue, open_catalogue
from store.content import segment
from store.disk import Disk
from store.errors import Corruption
from store.frame import Frame, FrameKind
from store.ids import FolderId, InstanceId, ItemId, LogHead, LogPosition, MailboxId, Signature
from store.layout import Layout
from store.limits import BLOCK
from store.log import generation
from store.log.checkpoint import checkpoints, make_checkpoint, verify
from store.log.log import Log
from store.records import ItemRow, Record
from store.recovery import apply_frame
from tests.fuzz.decoder import REFUSED, TAKEN, Decoder, MemoryDisk, MemoryFile, place_in_memory
from tests.support.crashing_disk import QuickDisk
from tests.support.store_world import empty_catalogue

SIGNATURE = Signature(b"a timeline here.")
INSTANCE = InstanceId(b"an instance here")
INBOX, WORK = FolderId(b"its inbox here.."), FolderId(b"a folder of it..")
FIRST = LogHead(LogPosition(1, BLOCK), bytes(16))
PLACE = LogHead(LogPosition(3, 4096), b"what came before")
LAYOUT = Layout(Path("/database"))


def item(number: int, uid: int) -> ItemRow:
    return ItemRow(
        ItemId(b"item %d" % number + b"." * 10), INBOX, uid, uid + 3, 1_700_000_000_000, 5, bytes(16), 1, 64, 1,
        ("$Work",), "IPM.Note", (("a", "b"),),
    )  # fmt: skip


def folder(folder_id: FolderId, name: str, modseq: int) -> records.FolderPut:
    return records.FolderPut(INSTANCE, folder_id, b"", name, modseq, 7, 1, "", True, False, (("x", "y"),))


MADE: list[Record] = [
    records.MailboxMade(INSTANCE, MailboxId(b"its mailbox's id"), 0, 1, 1),
    folder(INBOX, "INBOX", 1),
    folder(WORK, "Work", 2),
    records.ItemsPut(INSTANCE, [item(1, 1), item(2, 2)]),
]
LATER: list[list[Record]] = [
    [
        records.GuardSet(INSTANCE, 3, 9, "elsewhere", 8),
        records.ItemsReplaced(INSTANCE, [item(1, 3)]),
        records.ItemsChanged(
            INSTANCE, [records.ItemStateRow(item(2, 2).item_id, WORK, 1, 9, 3, ("k",), (("a", "c"),))]
        ),
    ],
    [records.ItemsGone(INSTANCE, [records.GoneRow(item(1, 1).item_id, 10)]), records.FolderGone(INSTANCE, WORK, 11)],
    [
        records.SettingPut(INSTANCE, "quota_bytes", "9", 12),
        records.DeliveryKeysPut(INSTANCE, [records.DeliveryKeyRow(b"key", b"d" * 32, 1, 13)]),
        records.HeadRaised(INSTANCE, 20),
        records.FeedCut(INSTANCE, 12, 1),
        records.FolderRoomRaised(INSTANCE, INBOX, 99),
        records.SegmentsDropped((1, 2)),
    ],
    [records.MailboxRemoved(INSTANCE, 5)],
    [records.MailboxConnected(INSTANCE)],
    [records.MailboxPurged(INSTANCE)],
]


# ---- one frame


def signed_frame(raw: bytes, chain: bytes) -> bytes:
    """The same bytes with right checksums, as far as there is a header."""
    if len(raw) < frame.HEADER_BYTES:
        return raw
    length = struct.unpack_from("<I", raw, 8)[0]
    payload = raw[frame.HEADER_BYTES : frame.HEADER_BYTES + length]
    body = raw[:40] + struct.pack("<Q", xxhash.xxh3_64_intdigest(payload))
    header = body + xxhash.xxh3_128_digest(chain + body)
    return header + struct.pack("<Q", xxhash.xxh3_64_intdigest(header)) + raw[frame.HEADER_BYTES :]


def judge_frame(data: bytes) -> str:
    raw = signed_frame(data[1:], PLACE.chain) if data[:1] == b"s" else data[1:]
    found = frame.decode(raw, signature=SIGNATURE, head=PLACE)
    if not isinstance(found, Frame):
        assert found is None or found.why
        return REFUSED
    again, after = frame.encode(found.kind, found.payload, signature=SIGNATURE, head=PLACE)
    assert raw[: len(again)] == again == found.raw
    assert after == found.after
    return TAKEN


def frames() -> tuple[bytes, ...]:
    made = [
        frame.encode(kind, payload, signature=SIGNATURE, head=PLACE)[0]
        for kind, payload in (
            (FrameKind.GROUP, records.encode(LATER)),
            (FrameKind.GROUP, b"x" * 600),
            (FrameKind.SEAL, b""),
        )
    ]
    return tuple(mode + raw for raw in made for mode in (b"s", b"-"))


# ---- records, and what they do to a catalogue


class Catalogue:
    """A catalogue that each input finds as it was made."""

    def __init__(self) -> None:
        self.db: apsw.Connection | None = None

    def apply(self, payload: bytes) -> None:
        if self.db is None:
            self.db = empty_catalogue(SIGNATURE, FIRST)
            Applier(self.db).apply(MADE)
        found = Frame(FrameKind.GROUP, payload, PLACE.position, PLACE, b"")
        self.db.execute("BEGIN")
        try:
            apply_frame(Applier(self.db), found, path="/database/log/00000003.log")
        finally:
            self.db.execute("ROLLBACK")


CATALOGUE = Catalogue()


def judge_records(data: bytes) -> str:
    """Decoded, they are said again in the same words; applied, they are a change or `Corruption` with its place."""
    try:
        found = records.decode(data)
    except ValueError as refusal:
        assert str(refusal)
        found = None
    if found is not None:
        assert records.decode(records.encode(found)) == found
    try:
        CATALOGUE.apply(data)
    except Corruption as damage:
        assert (damage.path, damage.offset) == ("/database/log/00000003.log", PLACE.position.offset)
        assert damage.found
        return REFUSED
    assert found is not None
    return TAKEN


def payloads() -> tuple[bytes, ...]:
    return (records.encode(LATER), *(records.encode([each]) for each in (MADE, *LATER)))


# ---- a generation's header, and a log of one generation


def signed_header(raw: bytes) -> bytes:
    size = generation._HEADER.size
    if len(raw) < size:
        return raw
    return raw[: size - 8] + struct.pack("<Q", xxhash.xxh3_64_intdigest(raw[: size - 8])) + raw[size:]


def judge_generation_header(data: bytes) -> str:
    raw = signed_header(data[1:]) if data[:1] == b"s" else data[1:]
    try:
        found = generation.decode_header(raw, path="a.log")
    except Corruption as damage:
        assert damage.path == "a.log"
        return REFUSED
    assert generation.decode_header(found.encode(), path="a.log") == found
    assert data[:1] == b"s" or found.encode() == raw[:BLOCK]
    return TAKEN


def generation_headers() -> tuple[bytes, ...]:
    first = generation.GenerationHeader(signature=SIGNATURE, number=1, created_ms=1, chain=bytes(16))
    later = generation.GenerationHeader(
        signature=SIGNATURE, number=9, created_ms=2, chain=PLACE.chain, parent=Signature(b"p" * 16),
        parent_position=LogPosition(4, 512),
    )  # fmt: skip
    return tuple(mode + header.encode() for header in (first, later) for mode in (b"s", b"-"))


def whole_log() -> bytes:
    raw = generation.GenerationHeader(signature=SIGNATURE, number=1, created_ms=1, chain=bytes(16)).encode()
    head = FIRST
    for transactions in ([MADE], LATER[:2], LATER[2:]):
        more, head = frame.encode(FrameKind.GROUP, records.encode(transactions), signature=SIGNATURE, head=head)
        raw += more
    return raw + bytes(2 * BLOCK)


def judge_log(data: bytes) -> str:
    """What is read is what was written, from the beginning; the rest is a torn tail that is cut, or `Corruption`."""
    good = whole_log()
    path = LAYOUT.generation(1)
    log = Log(MemoryDisk({path: data}), LAYOUT, SIGNATURE)
    try:
        head = log.begin_of(1)
        for found in log.read_all(head):
            assert good[found.start.offset : found.after.position.offset] == found.raw, "a frame that nobody wrote"
            head = found.after
        log.cut(head)
    except Corruption as damage:
        assert damage.path == str(path)
        return REFUSED
    return TAKEN


# ---- a segment


def signed_segment(raw: bytes) -> bytes:
    signed, size = bytearray(raw), segment._HEADER.size
    for at in range(0, len(raw) - segment.HEADER_BYTES + 1, 64):
        if raw[at : at + 4] == segment.MAGIC:
            signed[at + size - 8 : at + size] = struct.pack("<Q", xxhash.xxh3_64_intdigest(raw[at : at + size - 8]))
    return bytes(signed)


def judge_segment(data: bytes) -> str:
    """A scan ends, goes forward, and every frame it finds has the bytes it names."""
    raw = signed_segment(data[1:]) if data[:1] == b"s" else data[1:]
    last, damaged = -1, False
    for found in segment.scan(MemoryFile(Path("1.seg"), raw), 1):
        if isinstance(found, Corruption):
            damaged = True
            assert 0 <= found.offset <= len(raw)
            continue
        start = found.ref.offset + segment.HEADER_BYTES
        assert found.ref.offset > last
        assert xxhash.xxh3_128_digest(raw[start : start + found.ref.size]) == found.ref.content_hash
        last = found.ref.offset
    return REFUSED if damaged else TAKEN


def segments() -> tuple[bytes, ...]:
    contents = (b"", b"a" * 64, b"b" * 65, b"MVQC" * 40)
    headers = [
        segment.NewContent(ItemId(b"item %d" % number + b"." * 10), INBOX, number, number)
        for number in range(len(contents))
    ]
    pieces, _ = segment.encode(zip(repeat(INSTANCE), headers, contents), segment=1, start=0)
    raw = b"".join(pieces)
    return b"s" + raw, b"-" + raw, b"-" + raw + bytes(64) + raw


# ---- the seal of a checkpoint


@cache
def sealed() -> tuple[Layout, Path, bytes]:
    """A database's folder with one checkpoint, its seal's path, and what is in it."""
    layout = Layout(place_in_memory())
    catalogue = layout.root / "catalogue.sqlite"
    make_catalogue(catalogue, signature=SIGNATURE, head=PLACE)
    db = open_catalogue(catalogue)
    made = make_checkpoint(QuickDisk(), layout, db)
    db.close()
    seal = made.path.with_suffix(".seal")
    return layout, seal, seal.read_bytes()


def judge_seal(data: bytes) -> str:
    """A seal does not count; or it says of the copy what is so; or it is `Corruption`."""
    layout, seal, good = sealed()
    seal.write_bytes(data)
    found = checkpoints(Disk(), layout)
    if not found:
        return REFUSED
    (checkpoint,) = found
    try:
        verify(Disk(), checkpoint)
    except Corruption as damage:
        assert damage.path in (str(seal), str(checkpoint.path))
        return REFUSED
    assert (checkpoint.signature, checkpoint.head) == (SIGNATURE, PLACE)
    assert msgpack.unpackb(data) == msgpack.unpackb(good)
    return TAKEN


DECODERS = (
    Decoder("frame", judge_frame, frames()),
    Decoder("records", judge_records, payloads()),
    Decoder("generation-header", judge_generation_header, generation_headers()),
    Decoder("log", judge_log, (whole_log(),)),
    Decoder("segment", judge_segment, segments()),
    Decoder("seal", judge_seal, (sealed()[2],)),
)
