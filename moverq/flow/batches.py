"""Things of different sizes, cut into batches bounded in bytes: one that is larger than the bound comes alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_batches(
    items: Iterable[T], size_of: Callable[[T], int], *, bytes_max: int, items_max: int | None = None
) -> Iterator[Sequence[T]]:
    """All of them, in their order; no batch is empty."""
    batch: list[T] = []
    size = 0
    for item in items:
        one = size_of(item)
        if batch and (len(batch) == items_max or size + one > bytes_max):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += one
    if batch:
        yield batch


__all__ = ["in_batches"]
