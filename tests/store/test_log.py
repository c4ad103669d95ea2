"""The log across generations: append, read, roll, settle."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.disk import Disk
from store.errors import Corruption
from store.frame import FrameKind, encode
from store.ids import LogHead, Signature
from store.layout import Layout
from store.limits import BLOCK
from store.log.generation import GenerationHeader, make_generation
from store.log.log import Log

SIGNATURE = Signature(b"s" * 16)
FIRST = GenerationHeader(signature=SIGNATURE, number=1, created_ms=0, chain=bytes(16))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 8 * BLOCK)
    monkeypatch.setattr("store.log.log.GENERATION_GROW_BYTES", 2 * BLOCK)
    layout = Layout(tmp_path)
    layout.log.mkdir()
    make_generation(Disk(), layout, FIRST)
    log = Log(Disk(), layout, SIGNATURE)
    yield log
    log.close()


def append(log: Log, *payloads: bytes) -> list[LogHead]:
    heads = [FIRST.head]
    for payload in payloads:
        heads.append(log.append(payload, head=heads[-1], now_ms=0))
    return heads


PAYLOADS = [b"%d" % number * size for number, size in enumerate((1, 700, 0, 5000, 3, 9000, 1, 1))]


def test_what_was_appended_is_read_in_order_across_generations(log: Log) -> None:
    heads = append(log, *PAYLOADS)
    assert [frame.payload for frame in log.read(FIRST.head)] == PAYLOADS
    assert heads[-1].position.generation > 3
    assert log.generations() == list(range(1, heads[-1].position.generation + 1))


def test_reading_goes_on_from_any_place(log: Log) -> None:
    heads = append(log, *PAYLOADS)
    for number, head in enumerate(heads):
        assert [frame.payload for frame in log.read(head)] == PAYLOADS[number:]


def test_each_frame_but_the_last_is_not_quiet(log: Log) -> None:
    heads = append(log, *PAYLOADS)
    assert [log.is_quiet(head) for head in heads] == [False] * (len(heads) - 1) + [True]


def test_a_frame_larger_than_a_generation_has_one_of_its_own(log: Log) -> None:
    heads = append(log, b"small", b"x" * 20 * BLOCK, b"small")
    assert [head.position.generation for head in heads] == [1, 1, 2, 3]


def test_sealed_generations_never_change(log: Log, tmp_path: Path) -> None:
    heads = append(log, *PAYLOADS)
    sealed = {number: log.path(number).read_bytes() for number in log.generations()[:-1]}
    log.append(b"more", head=heads[-1], now_ms=0)
    assert {number: log.path(number).read_bytes() for number in sealed} == sealed


def test_making_room_writes_no_frame(log: Log) -> None:
    (head,) = append(log)
    assert log.make_room(100, head=head, now_ms=0) == head
    assert log.is_quiet(head)
    assert log.path(1).stat().st_size == padded_file(head)


def padded_file(head: LogHead) -> int:
    return head.position.offset + BLOCK


def test_a_seal_without_its_next_generation_gets_one(log: Log) -> None:
    """Whoever rolled died in between."""
    head = append(log, b"one")[-1]
    raw, sealed = encode(FrameKind.SEAL, b"", signature=SIGNATURE, head=head)
    with log.path(1).open("r+b") as file:
        file.seek(head.position.offset)
        file.write(raw)
    (seal,) = log.read_all(head)
    after = log.settle(head, seal, now_ms=5)
    assert (after.position.generation, after.chain) == (2, sealed.chain)
    assert log.header(2).created_ms == 5
    assert log.settle(head, seal, now_ms=6) == after  # again: the same
    assert log.header(2).created_ms == 5
    log.append(b"two", head=after, now_ms=0)
    assert [frame.payload for frame in log.read(FIRST.head)] == [b"one", b"two"]


def test_settling_goes_on_in_the_generation_that_was_begun(log: Log) -> None:
    heads = append(log, *PAYLOADS[:3])
    for number, head in enumerate(heads):
        frames = list(log.read_all(head))
        assert log.settle(head, frames[-1] if frames else None, now_ms=0) == heads[-1], number


def test_a_generation_with_another_digest_before_it_is_corruption(log: Log) -> None:
    append(log, *PAYLOADS)
    wrong = GenerationHeader(signature=SIGNATURE, number=2, created_ms=0, chain=b"?" * 16)
    log.path(2).write_bytes(wrong.encode())
    with pytest.raises(Corruption, match="chained to the one before it"):
        list(log.read(FIRST.head))


def test_its_repr_shows_where_it_is(log: Log) -> None:
    append(log, b"one")
    assert "generation 1" in repr(log)
