"""Values of the model as msgpack, and back, by their own attrs fields.

One converter per ledger, handed to what needs it. A field that a later release adds must have a default, so that
today's code reads every row an earlier one wrote; one that a release drops is left lying and ignored.
"""

from functools import lru_cache, partial
from typing import TypeVar

import msgpack
from cattrs.preconf.msgpack import MsgpackConverter, make_converter

from moverq.model.facts import FACT_KINDS, Fact
from moverq.model.request import MoveRequest

T = TypeVar("T")
REQUESTS_KEPT = 1024
"""About 2 KiB each. To unpack one costs 0.2 ms, as much as a transaction."""


class Codec:
    """Packs and unpacks values. What it cannot unpack is damage and raises cattrs' own error."""

    def __init__(self) -> None:
        self._converter: MsgpackConverter = make_converter()
        self._requests = lru_cache(REQUESTS_KEPT)(partial(self.unpack, kind=MoveRequest))
        self._kinds: dict[str, type[Fact]] = {kind.kind: kind for kind in FACT_KINDS}

    def pack(self, value: object) -> bytes:
        packed: bytes = msgpack.packb(self._converter.unstructure(value))
        return packed

    def unpack(self, data: bytes, kind: type[T]) -> T:
        return self._converter.structure(msgpack.unpackb(data), kind)

    def unpack_request(self, data: bytes) -> MoveRequest:
        """A request as it was asked for: a value that never changes, and is asked for again and again."""
        return self._requests(data)

    def unpack_fact(self, kind: str, data: bytes) -> Fact | None:
        """None: a kind that this release does not know."""
        found = self._kinds.get(kind)
        return None if found is None else self.unpack(data, found)
