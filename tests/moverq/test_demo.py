"""The demo's checks see what they are there for: a loss, a double, a wrong state."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moverq import demo
from moverq.root import Root, init_root, open_root

MESSAGE = b"Subject: extra\r\n\r\nnobody was told of this\r\n"


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Root]:
    await init_root(tmp_path / "root")
    async with open_root(tmp_path / "root") as opened:
        await demo.prepare(opened, mail=None, items=40, on_batch=lambda _: None)
        yield opened


async def moved(root: Root, told: demo.Told) -> demo.Moved:
    return await demo.move_in_use(
        root,
        told,
        lambda: root.move(demo.ADDRESS, to="DB2"),
        home="DB2",
        epoch=2,
        on_look=lambda _: None,
        rng=random.Random(1),
    )


def failed(checks: list[demo.Check]) -> list[str]:
    return [one.what for one in checks if not one.ok]


async def test_a_move_under_load_passes_and_what_is_spoilt_afterwards_is_seen(root: Root) -> None:
    told = await demo.read_told(root)
    there = await moved(root, told)
    assert failed(list(there.checks)) == []
    assert told.changes > 10
    assert sum(told.delivered.values()) > 10
    assert any("Lock attempt 1" in line for line in demo.narrated(there))

    async def again() -> list[str]:
        return failed(await demo.check(root, told, there.report, home="DB2", epoch=2))

    session = root.session(demo.ADDRESS)
    (one, two, *_) = told.items
    await session.use(lambda place: place.mailbox.change_flags([one], add=8))
    (flagged,) = await again()
    assert "not as its user left it" in flagged
    await session.use(lambda place: place.mailbox.change_flags([one], remove=8))
    assert await again() == []

    await root.deliver(demo.ADDRESS, MESSAGE)
    (extra,) = await again()
    assert "0 lost, 1 too many" in extra
    digest = next(iter(told.delivered))
    told.delivered[digest] += 1
    (both,) = await again()
    assert "1 lost, 1 too many" in both
    told.delivered[digest] -= 1

    await session.use(lambda place: place.mailbox.purge([two]))
    assert any(f"item {two.hex()} is not there" in what for what in await again())

    wrong = failed(await demo.check(root, told, there.report, home="DB2", epoch=3))
    assert any("the directory says DB2, epoch 2" in what for what in wrong)
