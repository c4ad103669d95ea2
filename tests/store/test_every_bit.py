"""Every bit of a small database flipped, one at a time: somebody notices, or it means nothing, and why is known.

Who may notice: `check`, whoever opens the database and reads all of it, and a scan of the segments (what a rebuild
from content goes by). Where none of them does, what clients see is as it was, and the bit lies where nothing is kept.
`MOVERQ_EVERY_BIT=1` flips all bits of the log, the segments, the checkpoint's seal and its copy's first page, and one
bit of each byte of the catalogue (half an hour); otherwise a few hundred, others every day.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import store
from moverq.errors import leaves
from store.check import check_database
from store.content.segment import _HEADER, HEADER_BYTES, scan
from store.disk import Disk
from store.frame import FrameKind
from store.layout import Layout, segment_numbers
from store.limits import BLOCK
from store.log.log import Log
from tests.support.crashing_disk import QuickDisk
from tests.support.store_scenarios import (
    Scenario,
    Snapshot,
    checkpoint,
    deliver,
    flag,
    make_template,
    purge,
    run,
    snapshot,
)
from tests.support.store_world import opened

EVERY = os.environ.get("MOVERQ_EVERY_BIT") == "1"
DAY = int(time.time() // 86400)
SMALL = {
    "store.catalogue.schema.PAGE_BYTES": 1024,
    "store.log.log.GENERATION_BYTES_MAX": 2048,
    "store.log.log.GENERATION_GROW_BYTES": 512,
    "store.content.pool.SEGMENT_BYTES_MAX": 1024,
}
STEPS = (deliver(1), deliver(2, size=70), flag, checkpoint, deliver(3), purge, deliver(4))


@attrs.define
class Small:
    """The database, what its files hold, and what clients see of it."""

    path: Path
    files: dict[Path, bytes]
    expected: Snapshot
    quiet: dict[Path, list[tuple[int, int, str]]]
    """Where a flip means nothing: from, to, and why."""

    def restore(self) -> None:
        for path in self.path.rglob("*"):
            if path.is_file() and path not in self.files:
                path.unlink()
        for path, content in self.files.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)

    def flip(self, path: Path, bit: int) -> None:
        content = bytearray(self.files[path])
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    def why_quiet(self, path: Path, offset: int) -> str | None:
        return next((why for start, end, why in self.quiet.get(path, []) if start <= offset < end), None)


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    for name, value in SMALL.items():
        monkeypatch.setattr(name, value)
    path = tmp_path / "db"
    await make_template(path)
    await run(path, QuickDisk(), Scenario("small", STEPS), [], look=False)
    async with opened(path, disk=QuickDisk()) as database:
        expected = await snapshot(database)
        quiet = await quiet_places(database)
    assert len(list(Layout(path).log.iterdir())) >= 2
    files = {found: found.read_bytes() for found in path.rglob("*") if found.is_file()}
    made = Small(path, files, expected, quiet)
    made.restore()
    assert await noticed(made) is None, "something is wrong before anything was flipped"
    return made


async def quiet_places(database: store.Database) -> dict[Path, list[tuple[int, int, str]]]:
    """Where nothing is kept, by what the formats say (`docs/reference/formats.md`)."""
    layout, disk = Layout(database.path), Disk()
    quiet: dict[Path, list[tuple[int, int, str]]] = {}
    log = Log(disk, layout, database.signature)
    for number in log.generations():
        end = BLOCK
        for frame in log.read_all(log.begin_of(number)):
            if frame.start.generation == number:
                end = frame.after.position.offset
            if frame.kind is FrameKind.SEAL:
                break
        quiet[layout.generation(number)] = [(end, 1 << 60, "zeros behind the last frame, cut by the next opener")]
    log.close()
    for number in segment_numbers(disk.names(layout.content)):
        file = disk.open(layout.segment(number))
        places, end = [], 0
        for found in scan(file, number):
            assert not isinstance(found, store.Corruption)
            ref = found.ref
            places.append((end, ref.offset, "zeros behind content"))
            places.append((ref.offset + _HEADER.size, ref.offset + HEADER_BYTES, "zeros behind a content header"))
            end = ref.offset + HEADER_BYTES + ref.size
        places.append((end, file.size(), "zeros behind content"))
        quiet[layout.segment(number)] = places
        file.close()
    return quiet


async def noticed(small: Small) -> str | None:
    """By whom; None where nobody does, and then clients see what they saw."""
    try:
        if not check_database(small.path).ok:
            return "check"
    except store.StoreError:
        return "check"
    layout = Layout(small.path)
    for number in segment_numbers(Disk().names(layout.content)):
        file = Disk().open(layout.segment(number), readonly=True)
        damaged = any(isinstance(found, store.Corruption) for found in scan(file, number))
        file.close()
        if damaged:
            return "scan"
    try:
        async with opened(small.path, disk=QuickDisk()) as database:
            seen = await snapshot(database)
    except BaseException as error:
        if not any(isinstance(leaf, store.StoreError) for leaf in leaves(error)):
            raise
        return "opening or reading"
    assert seen == small.expected, "another answer, and nobody noticed"
    return None


def bits(small: Small) -> Iterator[tuple[str, Path, int]]:
    """What is flipped: (kind of file, file, bit)."""
    for path, content in sorted(small.files.items()):
        kind = path.suffix.removeprefix(".")
        if path == Layout(small.path).catalogue:
            yield from (("catalogue", path, 8 * offset + offset % 8) for offset in range(len(content)))
        elif kind == "sqlite":
            yield from (("checkpoint", path, 8 * offset + offset % 8) for offset in range(len(content)))
        elif kind in ("log", "seg", "seal"):
            yield from ((kind, path, bit) for bit in range(8 * len(content)))


async def test_a_flipped_bit_is_noticed_or_means_nothing(small: Small) -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    stride = 1 if EVERY else 487
    for number, (kind, path, bit) in enumerate(bits(small)):
        if number % stride != DAY % stride:
            continue
        small.flip(path, bit)
        by = await noticed(small)
        why = small.why_quiet(path, bit // 8)
        assert by or why, f"bit {bit % 8} of byte {bit // 8} of {path} was flipped, and nobody noticed"
        outcomes[kind, f"noticed by {by}" if by else f"nothing: {why}"] += 1
        small.restore()
    assert await noticed(small) is None, "something is wrong although all is as it was"
    print(f"{outcomes.total()} bits of {dict(Counter(kind for kind, _, _ in bits(small)))}")
    for (kind, outcome), times in sorted(outcomes.items()):
        print(f"  {times:7,}  {kind:10}  {outcome}")
    assert {kind for kind, _ in outcomes} >= {"catalogue", "log", "seg"}
