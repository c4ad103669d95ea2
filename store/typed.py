"""Does a value that came off the wire have the type its field is written down with?

A checksum says that bytes are those that were written, not that a right program wrote them. So what is decoded is
compared with the annotations of its class, once, before anything uses it. Only what records are made of is known
here: bytes, int, bool, str, `str | None`, and tuples of one or of pairs of these. Rows come by the thousand, so the
types of all their fields are compared at once, and only what has parts is looked into.
"""

from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

Test = Callable[[Any], bool]


def fitting(kind: type, fields: Sequence[str]) -> Test:
    """Says of a sequence of values whether each is what the field at its place wants, by the class's annotations.

    There may be fewer values than fields: later ones have defaults.
    """
    hints = get_type_hints(kind)
    kinds, parts, may_be_none = list[type](), list[tuple[int, Test]](), set[int]()
    for place, name in enumerate(fields):
        annotation = _plain(hints[name])
        if NoneType in get_args(annotation):
            annotation = _plain(get_args(annotation)[0])
            may_be_none.add(place)
        if get_origin(annotation) is tuple:
            parts.append((place, _parts_of(get_args(annotation)[0])))
            annotation = tuple
        kinds.append(annotation)
    usual = tuple(kinds)

    def fit(values: Sequence[Any]) -> bool:
        found = tuple(map(type, values))
        if found != usual and not is_unusual(found):
            return False
        for place, test in parts:  # noqa: SIM110 (half a million rows come by here in a rebuild)
            if place < len(found) and values[place] and not test(values[place]):
                return False
        return True

    def is_unusual(found: tuple[type, ...]) -> bool:
        return len(found) <= len(usual) and all(
            one is usual[place] or (one is NoneType and place in may_be_none) for place, one in enumerate(found)
        )

    return fit


def _plain(annotation: Any) -> Any:
    return getattr(annotation, "__supertype__", annotation)  # of a NewType


def _parts_of(annotation: Any) -> Test:
    """Of a tuple, not empty, of values like that."""
    annotation = _plain(annotation)
    if get_origin(annotation) is not tuple:
        every = {annotation}
        return lambda value: set(map(type, value)) == every
    inner = tuple(map(_plain, get_args(annotation)))
    return lambda value: all(type(one) is tuple and tuple(map(type, one)) == inner for one in value)
