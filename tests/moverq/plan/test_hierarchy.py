"""Every plan is followed step by step on a tree that refuses what a mail server refuses."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations, product

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moverq.endpoints.base import FolderStep, StepKind
from moverq.model.change import FolderState
from moverq.model.digest import folder_paths
from moverq.model.ids import FolderId
from moverq.plan.hierarchy import is_parked, plan_hierarchy

NOBODY: frozenset[FolderId] = frozenset()

Places = dict[int, tuple[int, str]]
"""A tree in short: number → (parent's number or 0, name)."""


def folder_id(number: int) -> FolderId:
    return FolderId(number.to_bytes(16, "big"))


def tree(places: Places) -> tuple[FolderState, ...]:
    return tuple(
        FolderState(folder_id(n), folder_id(parent) if parent else None, name, modseq=n, uidvalidity=1, uidnext=1)
        for n, (parent, name) in places.items()
    )


def by_id(folders: Iterable[FolderState]) -> dict[FolderId, FolderState]:
    return {folder.folder_id: folder for folder in folders}


def follow(
    present: Sequence[FolderState], steps: Sequence[FolderStep], *, occupied: frozenset[FolderId] = NOBODY
) -> tuple[FolderState, ...]:
    """The tree after the steps, each checked as a mail server would check it."""
    now = by_id(present)
    for step in steps:
        folder, before = step.folder, now.get(step.folder.folder_id)
        match step.kind:
            case StepKind.CREATE:
                assert before is None
            case StepKind.MOVE:
                assert before is not None
                assert attrs.evolve(before, parent_id=folder.parent_id, name=folder.name) == folder != before
            case StepKind.UPDATE:
                assert before is not None
                assert (before.parent_id, before.name) == (folder.parent_id, folder.name)
            case StepKind.REMOVE:
                assert before == folder
                assert folder.folder_id not in occupied
                assert all(other.parent_id != folder.folder_id for other in now.values())
        if step.kind is StepKind.REMOVE:
            del now[folder.folder_id]
        else:
            now[folder.folder_id] = folder
        folder_paths(now.values())  # A forest, or ValueError.
        slots = [(f.parent_id, f.name) for f in now.values()]
        assert len(slots) == len(set(slots)), "two siblings of one name"
    return tuple(now.values())


def check_plan(present: Places, wanted: Places, occupied_numbers: Sequence[int] = ()) -> tuple[FolderStep, ...]:
    """All that holds of every plan; returns it."""
    before, goal = tree(present), tree(wanted)
    occupied = frozenset(folder_id(n) for n in occupied_numbers)
    steps = plan_hierarchy(before, goal, occupied=occupied)
    after = follow(before, steps, occupied=occupied)

    wanted_ids = {folder.folder_id for folder in goal}
    assert by_id(f for f in after if f.folder_id in wanted_ids) == by_id(goal)
    left_over = {f.folder_id for f in after if f.folder_id not in wanted_ids}
    assert occupied & by_id(before).keys() <= left_over | wanted_ids
    for unwanted in left_over:
        assert any(unwanted in chain_of(after, held) for held in occupied & left_over), "nothing holds it here"
    assert not any(is_parked(f.name) for f in after if f.folder_id in wanted_ids)
    assert plan_hierarchy(after, goal, occupied=occupied) == (), "the plan is done, or removal is pending"

    parked = [step.folder.folder_id for step in steps if step.kind is StepKind.MOVE and is_parked(step.folder.name)]
    assert len(parked) == len(set(parked)), "nothing is parked twice"
    misplaced = [n for n in present.keys() & wanted.keys() if present[n] != wanted[n]]
    moves = [step for step in steps if step.kind is StepKind.MOVE]
    assert len(moves) == len(misplaced) + len(parked), "each misplaced folder moves once, a parked one once more"
    return steps


def chain_of(folders: Sequence[FolderState], inner: FolderId) -> list[FolderId]:
    parents = {folder.folder_id: folder.parent_id for folder in folders}
    chain_: list[FolderId] = []
    at: FolderId | None = inner
    while at is not None:
        chain_.append(at)
        at = parents[at]
    return chain_


def parked_in(steps: Sequence[FolderStep]) -> int:
    return sum(step.kind is StepKind.MOVE and is_parked(step.folder.name) for step in steps)


def all_trees(numbers: Sequence[int], names: str) -> Iterator[Places]:
    for parents in product((0, *numbers), repeat=len(numbers)):
        for labels in product(names, repeat=len(numbers)):
            places = dict(zip(numbers, zip(parents, labels, strict=True), strict=True))
            if len(set(places.values())) == len(places) and is_forest(places):
                yield places


def is_forest(places: Places) -> bool:
    try:
        folder_paths(tree(places))
    except ValueError:
        return False
    return True


def subsets(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(numbers, size) for size in range(len(numbers) + 1))


@st.composite
def places(draw: st.DrawFn, folders_max: int = 8) -> Places:
    numbers = draw(st.lists(st.integers(1, 10), unique=True, max_size=folders_max))
    made: Places = {}
    for number in numbers:
        slot = (draw(st.sampled_from([0, *made])), draw(st.sampled_from("ABC")))
        if slot not in made.values():
            made[number] = slot
    return made


def test_every_pair_of_trees_of_two_folders_and_every_occupation_converges() -> None:
    trees = [places for numbers in subsets((1, 2)) for places in all_trees(numbers, "AB")]
    for present, wanted in product(trees, trees):
        for occupied in subsets(tuple(present)):
            check_plan(present, wanted, occupied)


def test_every_rearrangement_of_three_folders_converges() -> None:
    trees = list(all_trees((1, 2, 3), "AB"))
    for present, wanted in product(trees, trees):
        steps = plan_hierarchy(tree(present), tree(wanted), occupied=NOBODY)
        assert by_id(follow(tree(present), steps)) == by_id(tree(wanted))


@pytest.mark.slow
def test_every_pair_of_trees_of_up_to_three_folders_and_every_occupation_converges() -> None:
    trees = [places for numbers in subsets((1, 2, 3)) for places in all_trees(numbers, "AB")]
    for present, wanted in product(trees, trees):
        for occupied in subsets(tuple(present)):
            check_plan(present, wanted, occupied)


@settings(max_examples=400, deadline=None)
@given(present=places(), wanted=places(), occupied=st.sets(st.integers(1, 10)))
def test_trees_of_eight_folders_converge(present: Places, wanted: Places, occupied: set[int]) -> None:
    check_plan(present, wanted, sorted(occupied))


def test_a_missing_tree_is_made_parents_first_and_nothing_else_is_done() -> None:
    steps = check_plan({}, {3: (0, "A"), 2: (3, "B"), 1: (2, "C")})
    assert [(step.kind, step.folder.name) for step in steps] == [(StepKind.CREATE, name) for name in "ABC"]


def test_a_swap_parks_one_folder() -> None:
    steps = check_plan({1: (0, "A"), 2: (0, "B")}, {1: (0, "B"), 2: (0, "A")})
    assert parked_in(steps) == 1


def test_a_ring_of_three_parks_one_folder() -> None:
    steps = check_plan({1: (0, "A"), 2: (0, "B"), 3: (0, "C")}, {1: (0, "B"), 2: (0, "C"), 3: (0, "A")})
    assert parked_in(steps) == 1


def test_two_rings_park_one_folder_each() -> None:
    present = {1: (0, "A"), 2: (0, "B"), 3: (0, "C"), 4: (0, "D")}
    wanted = {1: (0, "B"), 2: (0, "A"), 3: (0, "D"), 4: (0, "C")}
    assert parked_in(check_plan(present, wanted)) == 2


def test_a_chain_of_renames_parks_nothing() -> None:
    present = {1: (0, "A"), 2: (0, "B"), 3: (0, "C")}
    assert parked_in(check_plan(present, {1: (0, "B"), 2: (0, "C"), 3: (0, "D")})) == 0


def test_an_inversion_under_the_same_name_parks_one_folder() -> None:
    assert parked_in(check_plan({1: (0, "A"), 2: (1, "B")}, {2: (0, "A"), 1: (2, "B")})) == 1


def test_an_inversion_under_free_names_parks_nothing() -> None:
    assert parked_in(check_plan({1: (0, "A"), 2: (1, "B")}, {2: (0, "B"), 1: (2, "A")})) == 0


def test_a_moved_subtree_is_one_move() -> None:
    present = {1: (0, "A"), 2: (1, "B"), 3: (2, "C"), 4: (0, "D")}
    steps = check_plan(present, present | {1: (4, "A")})
    assert [step.kind for step in steps] == [StepKind.MOVE]


def test_a_new_folder_takes_the_name_of_a_renamed_one() -> None:
    steps = check_plan({1: (0, "A")}, {1: (0, "B"), 2: (0, "A")})
    assert [step.kind for step in steps] == [StepKind.MOVE, StepKind.CREATE]


def test_a_new_folder_in_a_ring_parks_the_one_that_is_there() -> None:
    """1 shall go below the new 2, which shall take the name that 1 still has."""
    assert parked_in(check_plan({1: (0, "A")}, {1: (2, "B"), 2: (0, "A")})) == 1


def test_an_empty_unwanted_folder_is_removed_to_free_its_name() -> None:
    steps = check_plan({1: (0, "A")}, {2: (0, "A")})
    assert [step.kind for step in steps] == [StepKind.REMOVE, StepKind.CREATE]


def test_an_occupied_unwanted_folder_that_holds_a_wanted_name_is_parked_and_stays() -> None:
    steps = check_plan({1: (0, "A")}, {2: (0, "A")}, [1])
    assert [step.kind for step in steps] == [StepKind.MOVE, StepKind.CREATE]
    assert is_parked(steps[0].folder.name)


def test_an_occupied_unwanted_folder_in_nobodys_way_is_left_alone() -> None:
    assert check_plan({1: (0, "A"), 2: (1, "B")}, {}, [2]) == ()


def test_a_folder_leaves_an_unwanted_one_before_that_is_removed() -> None:
    steps = check_plan({1: (0, "A"), 2: (1, "B")}, {2: (0, "B")}, [2])
    assert [step.kind for step in steps] == [StepKind.MOVE, StepKind.REMOVE]


def test_a_folder_that_takes_the_name_of_its_unwanted_parent_costs_one_parking() -> None:
    steps = check_plan({1: (0, "A"), 2: (1, "B")}, {2: (0, "A")})
    assert parked_in(steps) == 1


def test_a_removal_that_was_pending_is_done_once_the_folder_is_empty() -> None:
    present, wanted = tree({1: (0, "A")}), tree({2: (0, "A")})
    held = frozenset({folder_id(1)})
    pending = follow(present, plan_hierarchy(present, wanted, occupied=held), occupied=held)
    assert by_id(follow(pending, plan_hierarchy(pending, wanted, occupied=NOBODY))) == by_id(wanted)


def test_a_plan_cut_short_anywhere_is_finished_by_the_next_plan() -> None:
    present = tree({1: (0, "A"), 2: (0, "B"), 3: (1, "C")})
    wanted = tree({1: (2, "B"), 2: (0, "A"), 3: (0, "B"), 4: (3, "C")})
    steps = plan_hierarchy(present, wanted, occupied=NOBODY)
    for taken in range(len(steps)):
        halfway = follow(present, steps[:taken])
        assert by_id(follow(halfway, plan_hierarchy(halfway, wanted, occupied=NOBODY))) == by_id(wanted)


def test_attributes_are_updated_in_place_and_uidnext_never_falls() -> None:
    (present,) = tree({1: (0, "A")})
    wanted = attrs.evolve(present, modseq=9, special_use="\\Sent", subscribed=False, uidnext=5)
    steps = plan_hierarchy([attrs.evolve(present, uidnext=7)], [wanted], occupied=NOBODY)
    assert steps == (FolderStep(StepKind.UPDATE, attrs.evolve(wanted, uidnext=7)),)


def test_a_user_who_took_a_parked_name_keeps_it() -> None:
    swap = tree({1: (0, "A"), 2: (0, "B")}), tree({1: (0, "B"), 2: (0, "A")})
    parked = plan_hierarchy(*swap, occupied=NOBODY)[0].folder.name
    squatter = attrs.evolve(tree({3: (0, "C")})[0], name=parked)
    present, wanted = (*swap[0], squatter), (*swap[1], squatter)
    assert by_id(follow(present, plan_hierarchy(present, wanted, occupied=NOBODY))) == by_id(wanted)


def test_what_is_no_forest_is_refused() -> None:
    with pytest.raises(ValueError, match="inside itself"):
        plan_hierarchy([], tree({1: (2, "A"), 2: (1, "B")}), occupied=NOBODY)
    with pytest.raises(ValueError, match="side by side"):
        plan_hierarchy(tree({1: (0, "A"), 2: (0, "A")}), [], occupied=NOBODY)
    with pytest.raises(ValueError, match="unknown parent"):
        plan_hierarchy(tree({1: (2, "A")}), [], occupied=NOBODY)


def test_a_tree_of_thousands_of_folders_is_planned_in_one_pass() -> None:
    """Not a clock but a shape: a tree made anew is created in order of depth, each folder once."""
    wanted = tree({n: (n // 10, f"F{n}") for n in range(1, 3001)})
    assert len(plan_hierarchy([], wanted, occupied=NOBODY)) == 3000
