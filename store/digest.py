"""Two sums mod 2^128 per folder, kept in the same transaction as the change, so that asking is O(folders).

*Equality*: content hash, received date, size, flags, keywords, item class, properties: what two copies of a mailbox
share. *Instance*: that plus UID and modseq: what one client's cache relies on. Sums, not XOR: two equal copies would
cancel. The canonical bytes are a msgpack array, written down in `docs/reference/formats.md`.
"""

from collections.abc import Callable

import msgpack
import xxhash

from store.records import ItemRow

MODULUS = 1 << 128


Pack = Callable[[object], bytes]
"""msgpack's `pack`: who digests many items brings a packer of his own, which is twice as fast as `packb`."""


def equality_digest(row: ItemRow, pack: Pack = msgpack.packb) -> int:
    """What both sides of a move keep of one item, as a number below 2^128."""
    return xxhash.xxh3_128_intdigest(
        pack(
            (
                row.content_hash,
                row.received_ms,
                row.size,
                row.flags,
                row.keywords,
                row.item_class,
                row.properties,
            )
        )
    )


def instance_digest(row: ItemRow, equality: int, pack: Pack = msgpack.packb) -> int:
    """The same with UID and modseq."""
    return xxhash.xxh3_128_intdigest(pack((equality.to_bytes(16, "big"), row.uid, row.modseq)))
