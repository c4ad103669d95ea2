"""Does a value that came off the wire have the type its field is written down with?

A checksum says that bytes are those that were written, not that a right program wrote them. So what is decoded is
compared with the annotations of its class, once, before anything uses it. Only what records are made of is known
here: bytes, int, bool, str, `str | None`, and tuples of one or of pairs of these.
"""

from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

INTEGER_MIN, INTEGER_MAX = -(1 << 63), (1 << 63) - 1
"""What the catalogue can keep."""

Test = Callable[[Any], bool]


def types_of(kind: type, fields: Sequence[str]) -> tuple[Test, ...]:
    """A test for each of the fields of a class, by their annotations."""
    hints = get_type_hints(kind)
    return tuple(_test(hints[name]) for name in fields)


def fits(values: Sequence[object], tests: Sequence[Test]) -> bool:
    """Is each value what its test wants? There may be fewer values than tests: later fields have defaults."""
    return all(map(_passes, values, tests))


def _passes(value: object, test: Test) -> bool:
    return test(value)


def _test(annotation: Any) -> Test:
    annotation = getattr(annotation, "__supertype__", annotation)  # of a NewType
    if annotation is int:
        return lambda value: type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX
    if isinstance(annotation, type) and not get_args(annotation):
        return lambda value: type(value) is annotation
    if isinstance(annotation, UnionType):
        either = [_test(one) for one in get_args(annotation)]
        return lambda value: any(test(value) for test in either)
    assert get_origin(annotation) is tuple, f"no record has a field like {annotation}"
    inner = get_args(annotation)
    if inner[-1] is Ellipsis:
        each = _test(inner[0])
        return lambda value: type(value) is tuple and all(map(each, value))
    tests = tuple(_test(one) for one in inner)
    return lambda value: type(value) is tuple and len(value) == len(tests) and fits(value, tests)
