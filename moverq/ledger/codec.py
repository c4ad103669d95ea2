"""Values of the model as msgpack, and back, by their own attrs fields.

One converter per ledger, handed to what needs it. A field that a later release adds must have a default, so that
today's code reads every row an earlier one wrote; one that a release drops is left lying and ignored.
"""

from typing import TypeVar

import msgpack
from cattrs.preconf.msgpack import MsgpackConverter, make_converter

from moverq.model.facts import FACT_KINDS, Fact

T = TypeVar("T")


class Codec:
    """Packs and unpacks values. What it cannot unpack is damage and raises cattrs' own error."""

    def __init__(self) -> None:
        self._converter: MsgpackConverter = make_converter()
        self._kinds: dict[str, type[Fact]] = {kind.kind: kind for kind in FACT_KINDS}

    def pack(self, value: object) -> bytes:
        packed: bytes = msgpack.packb(self._converter.unstructure(value))
        return packed

    def unpack(self, data: bytes, kind: type[T]) -> T:
        return self._converter.structure(msgpack.unpackb(data), kind)

    def unpack_fact(self, kind: str, data: bytes) -> Fact | None:
        """None: a kind that this release does not know."""
        found = self._kinds.get(kind)
        return None if found is None else self.unpack(data, found)
