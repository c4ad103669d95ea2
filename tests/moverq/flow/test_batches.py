"""Cut into batches: everything, in order, bounded in bytes and number."""

from itertools import zip_longest

from hypothesis import given
from hypothesis import strategies as st

from moverq.flow.batches import in_batches


@given(st.lists(st.integers(0, 50)), st.integers(1, 60), st.one_of(st.none(), st.integers(1, 5)))
def test_batches_hold_all_in_order_and_no_more_than_fits(
    sizes: list[int], bytes_max: int, items_max: int | None
) -> None:
    batches = list(in_batches(sizes, lambda size: size, bytes_max=bytes_max, items_max=items_max))
    assert [size for batch in batches for size in batch] == sizes
    for batch, following in zip_longest(batches, batches[1:]):
        assert batch
        assert len(batch) == 1 or sum(batch) <= bytes_max
        assert items_max is None or len(batch) <= items_max
        if following is not None:  # as full as it could be
            assert len(batch) == items_max or sum(batch) + following[0] > bytes_max
