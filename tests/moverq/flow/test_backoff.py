import random
from functools import partial
from pathlib import Path

import trio

from moverq.flow.backoff import backoff_s, wait_first
from moverq.flow.bell import Bell
from moverq.flow.file_lock import FileLock


def test_the_wait_doubles_up_to_its_bound_and_is_scattered() -> None:
    rng = random.Random(1)
    for tries, whole in enumerate((30, 60, 120, 240, 480, 900, 900)):
        seconds = backoff_s(tries, first_s=30.0, most_s=900.0, rng=rng)
        assert whole / 2 <= seconds <= whole
    assert backoff_s(10_000, first_s=30.0, most_s=900.0, rng=rng) <= 900


async def test_the_first_of_several_ends_the_wait(autojump_clock: object) -> None:
    begun = trio.current_time()
    await wait_first(partial(trio.sleep, 50), partial(trio.sleep, 7), trio.sleep_forever)
    assert trio.current_time() - begun == 7
    await wait_first(trio.sleep_forever, at_most_s=3)
    assert trio.current_time() - begun == 10


async def test_a_ring_between_the_look_and_the_wait_is_not_missed() -> None:
    bell = Bell()
    seen = bell.version
    bell.ring()
    await bell.wait(seen)
    with trio.move_on_after(0) as scope:
        await bell.wait(bell.version)
    assert scope.cancelled_caught


def test_a_file_lock_is_held_once_and_can_be_had_again(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "moves" / "m.lock"), FileLock(tmp_path / "moves" / "m.lock")
    assert one.try_acquire()
    assert not other.try_acquire()
    one.release()
    assert other.try_acquire()
    other.release()
