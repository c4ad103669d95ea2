"""The runs of a server with a weak fence: nothing from before the fence is lost, and who came late is named."""

from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest

from moverq.ledger.item_map import ItemMap
from moverq.model.facts import StragglersSeen
from moverq.phases import soak
from tests.sim.weak_fence import NAMED, ONCE, run_weak_fence


def found(seeds: range) -> set[str]:
    """The rules that are broken in these runs, up to the first such run."""
    for seed in seeds:
        broken = {violation.rule for violation in run_weak_fence(seed).violations}
        if broken:
            return broken
    return set()


def test_nothing_from_before_the_fence_is_lost_and_who_came_late_is_named() -> None:
    sometimes = Counter[str]()
    for seed in range(25):
        weak = run_weak_fence(seed)
        assert weak.violations == [], f"seed {seed}"
        sometimes += weak.sometimes
    assert sometimes.keys() >= {
        "a worker died",
        "a straggler landed on a mailbox that was locked",
        "a straggler landed on a mailbox that was retired",
        "a straggler was named",
        "a straggler was carried all the same",
    }


@pytest.mark.slow
def test_no_rule_of_the_fence_is_broken_in_many_runs() -> None:
    assert found(range(1000, 1400)) == set()


def test_looking_once_misses_those_who_come_after_that_look() -> None:
    look = soak._look_for_stragglers

    async def once(t: Any, carrier: Any) -> None:
        if not t.facts.has(StragglersSeen):
            await look(t, carrier)

    with patch.object(soak, "_look_for_stragglers", once):
        assert found(range(40)) == {NAMED}


def test_without_the_map_the_movers_own_writes_are_taken_for_stragglers() -> None:
    async def all_of_them(self: ItemMap, states: Any) -> Any:
        return tuple(states)

    with patch.object(ItemMap, "differing", all_of_them):
        assert found(range(40)) == {ONCE}


def test_a_weak_fence_taken_for_a_strong_one_names_nobody() -> None:
    async def nobody(t: Any, carrier: Any) -> None: ...

    with patch.object(soak, "_look_for_stragglers", nobody):
        assert found(range(40)) == {NAMED}
