"""Values of the model as msgpack, and back, by their own attrs fields.

One converter per ledger, handed to what needs it. A field that a later release adds must have a default, so that
today's code reads every row an earlier one wrote; one that a release drops is left lying and ignored.
"""

from functools import lru_cache
from typing import Any, TypeVar

import msgpack
from cattrs.errors import BaseValidationError, StructureHandlerNotFoundError
from cattrs.preconf.msgpack import MsgpackConverter, make_converter

from moverq.errors import EndpointBroken
from moverq.model.facts import FACT_KINDS, Fact

T = TypeVar("T")
VALUES_KEPT = 2048
"""At most 2 KiB each. To unpack a request costs 0.2 ms, as much as a transaction, and a worker looks at all that are
due whenever one of them changed."""


_DAMAGE = (
    BaseValidationError,
    StructureHandlerNotFoundError,
    msgpack.UnpackException,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What msgpack and cattrs raise on bytes that are no such value."""


class Codec:
    """Packs and unpacks values."""

    def __init__(self) -> None:
        self._converter: MsgpackConverter = make_converter()
        self._kept: Any = lru_cache(VALUES_KEPT)(self.unpack)
        self._kinds: dict[str, type[Fact]] = {kind.kind: kind for kind in FACT_KINDS}

    def pack(self, value: object) -> bytes:
        packed: bytes = msgpack.packb(self._converter.unstructure(value))
        return packed

    def unpack(self, data: bytes, kind: type[T]) -> T:
        """The value. Raises `EndpointBroken` where the bytes are none: the row is damaged, or of another program."""
        try:
            return self._converter.structure(msgpack.unpackb(data), kind)
        except _DAMAGE as error:
            name = getattr(kind, "__name__", str(kind))
            raise EndpointBroken(
                endpoint="the ledger",
                why=f"{len(data)} bytes that should be a {name} are none ({first_line(error)}); "
                f"restore the file from a backup",
            ) from error

    def unpack_again(self, data: bytes, kind: type[T]) -> T:
        """`unpack`, for what is asked for again and again: one frozen value for the same bytes."""
        value: T = self._kept(data, kind)
        return value

    def unpack_fact(self, kind: str, data: bytes) -> Fact | None:
        """None: a kind that this release does not know."""
        found = self._kinds.get(kind)
        return None if found is None else self.unpack(data, found)


def first_line(error: BaseException) -> str:
    """The innermost cause, short."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{error!r}".splitlines()[0][:120]
