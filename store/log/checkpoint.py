"""Checkpoints: sealed copies of the catalogue, hashed, named by the position they stand at.

A rebuild starts from the newest one and replays what lies above it, and the log is trimmed only below the older of
the two newest that are sound. A copy without its seal does not count: the seal (msgpack: position, chain, size,
xxh3_128) is written after the copy is durable.
"""

from pathlib import Path

import apsw
import attrs
import msgpack
import xxhash

from store.catalogue.schema import copy_catalogue, open_catalogue, read_applied, size_of
from store.disk import Disk, File
from store.errors import Corruption, StoreError, StoreFull
from store.ids import LogHead, Signature
from store.layout import Layout, sealed_checkpoints
from store.limits import CHECKPOINTS_KEPT, GENERATION_BYTES_MAX, MIB

_READ_BYTES = 4 * MIB


@attrs.frozen
class Checkpoint:
    """A sealed copy of the catalogue."""

    signature: Signature
    head: LogHead
    path: Path
    size: int
    digest: bytes


def make_checkpoint(disk: Disk, layout: Layout, db: apsw.Connection) -> Checkpoint:
    """A sealed checkpoint of what `db` sees now exists. Durable on return.

    One at a time in all processes: two that wrote the same new file would seal a mixture.

    Raises:
        StoreFull: it would not leave room for the log's next generation, or did not fit; what was written of it is
            gone.
        Corruption: the catalogue, or the copy of it, has a damaged page.
    """
    disk.make_folder(layout.checkpoints)
    lock = disk.open(layout.checkpoints / "lock", create=True)
    try:
        lock.lock(exclusive=True, wait=True)
        return _make_checkpoint(disk, layout, db)
    finally:
        lock.close()


def _make_checkpoint(disk: Disk, layout: Layout, db: apsw.Connection) -> Checkpoint:
    _, present = read_applied(db)
    for made in checkpoints(disk, layout):
        if made.head == present and _is_sound(disk, made):
            return made
    temporary = layout.checkpoints / "new.sqlite"
    _remove_unsealed(disk, layout)
    _check_room(disk, layout, size_of(db))
    try:
        return _seal(disk, layout, db, temporary)
    except BaseException:  # a draft gives its room back
        _remove_unsealed(disk, layout)
        raise


def _check_room(disk: Disk, layout: Layout, size: int) -> None:
    """A checkpoint is a convenience, and deliveries are not: it takes nothing that the log may need next."""
    free = disk.free_bytes(layout.checkpoints)
    if size + GENERATION_BYTES_MAX > free:
        raise StoreFull(
            path=str(layout.checkpoints),
            why=f"a checkpoint of {size:,} bytes would leave no room for the log, {free:,} bytes are free",
        )


def _seal(disk: Disk, layout: Layout, db: apsw.Connection, temporary: Path) -> Checkpoint:
    signature, head = copy_catalogue(db, temporary)
    path = layout.checkpoint(signature, head.position)
    file = disk.open(temporary)
    try:
        file.sync()
        size, digest = file.size(), _digest(file)
    finally:
        file.close()
    disk.replace(temporary, path)
    disk.sync_folder(layout.checkpoints)  # or the seal's name could outlive power loss, and the copy's not
    seal = msgpack.packb([1, signature, head.position.generation, head.position.offset, head.chain, size, digest])
    sealing = path.with_suffix(".sealing")
    disk.remove(sealing)
    written = disk.open(sealing, create=True)
    try:
        written.write(seal, 0)
        written.sync()
    finally:
        written.close()
    disk.replace(sealing, path.with_suffix(".seal"))
    disk.sync_folder(layout.checkpoints)
    return Checkpoint(signature, head, path, size, digest)


def _remove_unsealed(disk: Disk, layout: Layout) -> None:
    """What those left who died while making a checkpoint."""
    sealed = {path for made in checkpoints(disk, layout) for path in (made.path, made.path.with_suffix(".seal"))}
    for name in disk.names(layout.checkpoints):
        path = layout.checkpoints / name
        if name != "lock" and path not in sealed:
            disk.remove(path)


def _is_sound(disk: Disk, checkpoint: Checkpoint) -> bool:
    try:
        verify(disk, checkpoint)
    except StoreError:
        return False
    return True


def _digest(file: File) -> bytes:
    running, offset = xxhash.xxh3_128(), 0
    while piece := file.read(_READ_BYTES, offset):
        running.update(piece)
        offset += len(piece)
    return running.digest()


def checkpoints(disk: Disk, layout: Layout, *, damaged: list[Path] | None = None) -> list[Checkpoint]:
    """Those that are sealed, oldest first. A seal that cannot be read does not count; it goes into `damaged`."""
    found = []
    for signature, position in sealed_checkpoints(disk.names(layout.checkpoints)):
        path = layout.checkpoint(signature, position)
        try:
            file = disk.open(path.with_suffix(".seal"), readonly=True)
        except FileNotFoundError:
            continue
        try:
            said = msgpack.unpackb(file.read(4096, 0))
        except (ValueError, TypeError, msgpack.UnpackException, StoreError):
            said = None
        finally:
            file.close()
        place = [1, signature, position.generation, position.offset]
        if type(said) is list and said[:4] == place and [type(value) for value in said[4:]] == [bytes, int, bytes]:
            chain, size, digest = said[4:]
            found.append(Checkpoint(signature, LogHead(position, chain), path, size, digest))
        elif damaged is not None:
            damaged.append(path.with_suffix(".seal"))
    return found


def sound_checkpoints(
    disk: Disk, layout: Layout, signature: Signature, *, damage: list[str] | None = None
) -> list[Checkpoint]:
    """Those of this timeline that are what was sealed, all of it read, oldest first; what is wrong with the others goes
    into `damage`."""
    sound = []
    for made in checkpoints(disk, layout):
        if made.signature != signature:
            continue
        try:
            verify(disk, made)
            sound.append(made)
        except StoreError as found:
            if damage is not None:
                damage.append(str(found))
    return sound


def needed_checkpoints(disk: Disk, layout: Layout, signature: Signature) -> list[Checkpoint]:
    """The newest `CHECKPOINTS_KEPT` of this timeline that are sound, newest first, each of them read; fewer where there
    are no more. A damaged one takes the place of none."""
    needed: list[Checkpoint] = []
    for made in reversed(checkpoints(disk, layout)):
        if made.signature == signature and len(needed) < CHECKPOINTS_KEPT and _is_sound(disk, made):
            needed.append(made)
    return needed


def remove_checkpoint(disk: Disk, checkpoint: Checkpoint) -> None:
    """It is gone: its seal first, durably, for a seal without its copy would look like damage."""
    disk.remove(checkpoint.path.with_suffix(".seal"))
    disk.sync_folder(checkpoint.path.parent)
    disk.remove(checkpoint.path)


def verify(disk: Disk, checkpoint: Checkpoint) -> None:
    """Raises `Corruption` where the copy is not what was sealed, or the seal does not say where the copy stands.

    Nothing else would notice the latter before the log was replayed from a running digest that it never had.
    """
    try:
        file = disk.open(checkpoint.path, readonly=True)
    except FileNotFoundError:
        raise Corruption(path=str(checkpoint.path), offset=0, expected="a checkpoint", found="no file") from None
    try:
        if file.size() != checkpoint.size or _digest(file) != checkpoint.digest:
            raise Corruption(
                path=str(checkpoint.path), offset=0, expected="the sealed copy", found="other bytes than were sealed"
            )
    finally:
        file.close()
    copy = open_catalogue(checkpoint.path)
    try:
        _, head = read_applied(copy)
    finally:
        copy.close()
    if head != checkpoint.head:
        raise Corruption(
            path=str(checkpoint.path.with_suffix(".seal")),
            offset=0,
            expected=f"the running digest {head.chain.hex()}, which its copy has",
            found=checkpoint.head.chain.hex(),
        )
