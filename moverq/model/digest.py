"""The equality digest: one number that two sides share exactly when they hold the same.

Per item, xxh3_128 over a canonical msgpack of what both sides keep; per folder the *sum* of its items mod 2^128
(not XOR: equal copies would cancel), kept up to date with every change, so asking is O(folders). Over the whole
mailbox SHA-256 of the sorted folders with their paths and attributes, so that a report's digest cannot be forged
by chosen bytes. UID, UIDVALIDITY and modseq are not part of it; the *instance* digest adds them.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import msgpack
import xxhash

from moverq.model.change import FolderState, ItemState
from moverq.model.ids import FolderId

MODULUS = 1 << 128


Pack = Callable[[object], bytes]
"""msgpack's `pack`: who digests many items brings a packer of his own, which is twice as fast as `packb`."""


def item_digest(item: ItemState, pack: Pack = msgpack.packb) -> int:
    """What both sides keep of one item, as a number below 2^128."""
    _, _, _, _, received_ms, size, content_hash, flags, keywords, item_class, properties = item
    held = sorted(properties.items()) if properties else ()
    return xxhash.xxh3_128_intdigest(pack((content_hash, received_ms, size, flags, keywords, item_class, held)))


@attrs.frozen(slots=True)
class FolderDigest:
    """One folder's account: how many items, how many bytes, and the sum of their digests mod 2^128."""

    items: int = 0
    bytes: int = 0
    total: int = 0

    def plus(self, item: ItemState) -> "FolderDigest":
        return FolderDigest(self.items + 1, self.bytes + item.size, (self.total + item_digest(item)) % MODULUS)

    def minus(self, item: ItemState) -> "FolderDigest":
        return FolderDigest(self.items - 1, self.bytes - item.size, (self.total - item_digest(item)) % MODULUS)


def folder_paths(folders: Iterable[FolderState]) -> dict[FolderId, tuple[str, ...]]:
    """Each folder's path from the top. Raises `ValueError` where the folders are not a forest."""
    by_id = {folder.folder_id: folder for folder in folders}
    paths: dict[FolderId, tuple[str, ...]] = {}
    for folder in by_id.values():
        path: list[str] = []
        at: FolderState | None = folder
        while at is not None:
            path.append(at.name)
            if len(path) > len(by_id):
                raise ValueError(f"folder {folder.name!r} is inside itself")
            if at.parent_id is not None and at.parent_id not in by_id:
                raise ValueError(f"folder {at.name!r} has an unknown parent")
            at = by_id[at.parent_id] if at.parent_id is not None else None
        paths[folder.folder_id] = tuple(reversed(path))
    return paths


def mailbox_digest(
    folders: Iterable[FolderState],
    digests: Mapping[FolderId, FolderDigest],
    settings: Mapping[str, str],
) -> str:
    """The whole mailbox as one SHA-256, hex: paths, attributes, items, settings."""
    tree = tuple(folders)
    paths = folder_paths(tree)
    rows: Any = sorted(
        [
            list(paths[folder.folder_id]),
            folder.special_use,
            folder.subscribed,
            folder.hidden,
            sorted(folder.attributes.items()),
            (account := digests.get(folder.folder_id, FolderDigest())).items,
            account.bytes,
            account.total.to_bytes(16, "big"),
        ]
        for folder in tree
    )
    return hashlib.sha256(msgpack.packb([rows, sorted(settings.items())])).hexdigest()
