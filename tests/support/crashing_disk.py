"""A disk that counts its calls, stops at the n-th, and then has lost what was not synced.

It works on real files, so that everything else (locks, SQLite, a second look from outside) is as always. What was
written and not synced is remembered with what was there before; likewise the names of a folder since it was last
synced. `power_off` then puts the files into a state that power loss may leave: all of it lost (seed 0), all of it kept
(seed 1), or some writes, some 512-byte blocks of a write, and some names (any other seed). `kill` ends the process
alone: everything stays as it was seen, and what was not synced may still be lost later.

Each call that changes something counts twice, before its effect and after it: a stop between a sync and whatever
follows is a state of its own. Blocking reads and locks do not count. SQLite's files are not this disk's business, but
where they are written through `crashing_sqlite`: then they stand on this disk as all others do.

A folder that was made is a name too: until the folder that it is in was synced, power loss takes it with all in it.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs

from store.disk import Disk, File
from store.limits import BLOCK


class PowerLoss(BaseException):
    """The machine has stopped: no `except Exception` goes on after this."""


@attrs.define
class _Write:
    """One change that was not synced, and how to take it back."""

    offset: int
    data: bytes
    old: bytes
    old_size: int
    is_truncation: bool = False

    def undo(self, content: bytearray) -> None:
        if self.is_truncation:
            content.extend(self.old)
        else:
            content[self.offset : self.offset + len(self.old)] = self.old
            del content[self.old_size :]

    def redo(self, content: bytearray, rng: random.Random | None) -> None:
        """Again, whole; or, with `rng`, some blocks of it."""
        if self.is_truncation:
            if rng is None or rng.random() < 0.5:
                del content[self.offset :]
            return
        start = self.offset
        while start < self.offset + len(self.data):
            end = min(start // BLOCK * BLOCK + BLOCK, self.offset + len(self.data))
            if rng is None or rng.random() < 0.5:
                content.extend(bytes(max(end - len(content), 0)))
                content[start:end] = self.data[start - self.offset : end - self.offset]
            start = end


@attrs.define(eq=False)
class _Node:
    """A file apart from its names; held open, so that its bytes outlive them."""

    descriptor: int
    unsynced: list[_Write] = attrs.Factory(list)

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def content(self) -> bytearray:
        return bytearray(os.pread(self.descriptor, self.size(), 0))

    def after_power_loss(self, seed: int, rng: random.Random) -> bytearray:
        content = self.content()
        for write in reversed(self.unsynced):
            write.undo(content)
        if seed > 0:
            for write in self.unsynced:
                torn = None if seed == 1 or rng.random() < 0.3 else rng
                if torn is None or rng.random() < 0.7:
                    write.redo(content, torn)
        return content


Names = dict[str, _Node]


class CrashingDisk(Disk):
    """See the module. `stop_at` None: it never stops by itself."""

    def __init__(self, *, stop_at: int | None = None, with_sqlite: bool = False) -> None:
        self.stop_at = stop_at
        self.with_sqlite = with_sqlite
        self.calls = 0
        self.is_off = False
        self._nodes: dict[int, _Node] = {}
        self._durable: dict[Path, Names] = {}
        self._folders: set[Path] = set()
        """Whose names are durable."""
        self._open: list[File] = []

    def __repr__(self) -> str:
        return f"<CrashingDisk at call {self.calls}{' off' if self.is_off else ''}>"

    def step(self) -> None:
        """One call; the machine may stop here."""
        if self.is_off:
            raise PowerLoss
        self.calls += 1
        if self.calls == self.stop_at:
            self.is_off = True
            raise PowerLoss(f"at call {self.calls}")

    # ---- the disk

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        if self.is_off:
            raise PowerLoss
        self._look(path.parent)
        makes = create and not path.exists()
        if makes:
            self.step()
        plain = super().open(path, create=create, exclusive=exclusive, readonly=readonly)
        file = _CrashingFile(self, plain, self.node(path, is_new=makes))
        self._open.append(file)
        if makes:
            self.step()
        return file

    def replace(self, old: Path, new: Path) -> None:
        self._look(old.parent)
        if old.is_dir():
            self._replace_folder(old, new)
            return
        self.node(old)
        self.step()
        super().replace(old, new)
        self.step()

    def _replace_folder(self, old: Path, new: Path) -> None:
        """The new name is taken to be durable at once: what is asked is whether all that it leads to was."""
        self.step()
        Disk.replace(self, old, new)
        below = [folder for folder in {*self._durable, *self._folders} if folder.is_relative_to(old)]
        for folder in below:
            moved = new / folder.relative_to(old)
            if folder in self._durable:
                self._durable[moved] = self._durable.pop(folder)
            if folder in self._folders:
                self._folders.remove(folder)
                self._folders.add(moved)
        self._folders.add(new)
        self.step()

    def remove_folder(self, folder: Path) -> None:
        if not folder.exists():
            return
        self.step()
        super().remove_folder(folder)
        for gone in [one for one in self._durable if one.is_relative_to(folder)]:
            del self._durable[gone]
        self._folders = {one for one in self._folders if not one.is_relative_to(folder)}
        self.step()

    def remove(self, path: Path) -> None:
        self._look(path.parent)
        if not path.exists():
            return
        self.step()
        super().remove(path)
        self.step()

    def place(self, path: Path, place_file: Callable[[Path, bytes], None], content: bytes) -> None:
        """`place_file` on this disk: it syncs the bytes itself, before they have a name."""
        self._look(path.parent)
        self.step()
        is_new = not path.exists()
        place_file(path, content)
        self.node(path, is_new=is_new)
        self.step()

    def make_folder(self, folder: Path) -> None:
        if self.is_off:
            raise PowerLoss
        super().make_folder(folder)

    def sync_folder(self, folder: Path) -> None:
        self._look(folder)
        self.step()
        self.folder_is_durable(folder)
        self.step()

    def folder_is_durable(self, folder: Path) -> None:
        """The names in `folder` survive power loss."""
        self._look(folder)
        self._durable[folder] = self._names(folder)
        self._folders |= {Path(found) for found in os.scandir(folder) if found.is_dir()}

    # ---- one file's calls

    def node_of(self, path: Path, *, is_new: bool) -> "_Node":
        """The file at `path`, which somebody else has just opened, or made."""
        self._look(path.parent)
        return self.node(path, is_new=is_new)

    def before_write(self, node: "_Node", data: bytes, offset: int) -> None:
        """A step; then the caller writes, and until the next sync these bytes may be lost or torn."""
        self.step()
        node.unsynced.append(_Write(offset, data, os.pread(node.descriptor, len(data), offset), node.size()))

    def before_truncate(self, node: "_Node", size: int) -> None:
        self.step()
        old_size = node.size()
        old = os.pread(node.descriptor, max(old_size - size, 0), size)
        node.unsynced.append(_Write(size, b"", old, old_size, is_truncation=True))

    # ---- what is durable

    def watch(self, root: Path) -> None:
        """All that is below `root` now has been there for long; folders made from now on have not."""
        for folder, _, _ in os.walk(root, topdown=False):
            self._look(Path(folder))

    def _look(self, folder: Path) -> None:
        """What is in a folder when this disk first sees it has been there for long, unless the folder itself is new in
        one that it saw before."""
        if folder not in self._durable and folder.is_dir():
            if folder.parent in self._durable and folder not in self._folders:
                self._durable[folder] = {}
                return
            self._folders |= {folder, *(Path(found) for found in os.scandir(folder) if found.is_dir())}
            names = self._names(folder)
            for node in names.values():
                node.unsynced.clear()
            self._durable[folder] = names

    def _names(self, folder: Path) -> Names:
        return {
            name: self.node(folder / name)
            for name in os.listdir(folder)
            if self._is_ours(name) and (folder / name).is_file()
        }

    def _is_ours(self, name: str) -> bool:
        return not name.endswith("-shm") if self.with_sqlite else not name.startswith("catalogue")

    def node(self, path: Path, *, is_new: bool = False) -> _Node:
        number = path.stat().st_ino
        node = self._nodes.get(number)
        if node is None:
            node = self._nodes[number] = _Node(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            if not is_new:  # written past this disk: nothing of it is certain
                node.unsynced.append(_Write(0, bytes(node.content()), b"", 0))
        return node

    # ---- the end of a process, and of a machine

    def kill(self) -> None:
        """The process is gone, its locks with it; the machine goes on, and so may this disk."""
        for file in self._open:
            file.close()
        self._open.clear()
        self.is_off = False
        self.stop_at = None

    def power_off(self, seed: int) -> None:
        """The files are as power loss may leave them; this disk is not to be used again."""
        self.kill()
        rng = random.Random(seed)
        for folder in sorted(self._durable.keys() - self._folders):
            if seed == 0 or (seed > 1 and rng.random() < 0.5):
                shutil.rmtree(folder, ignore_errors=True)
        for folder, durable in self._durable.items():
            if not folder.is_dir():
                continue
            if self.with_sqlite:
                for shared in folder.glob("*-shm"):
                    shared.unlink()  # never on the disk: it is memory
            present = self._names(folder)
            for name in sorted(durable.keys() | present.keys()):
                old, new = durable.get(name), present.get(name)
                keeps_new = bool(seed) and (seed == 1 or rng.random() < 0.5)
                node = new if keeps_new else old
                path = folder / name
                if node is None:
                    path.unlink(missing_ok=True)
                    continue
                content = node.after_power_loss(seed, rng)
                if node is not new or node.unsynced:
                    path.unlink(missing_ok=True)
                    path.write_bytes(content)
        self.is_off = True
        for node in self._nodes.values():
            os.close(node.descriptor)
        self._nodes.clear()


class QuickDisk(Disk):
    """A disk that never waits for the disk: for what is looked at, not stopped."""

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        plain = super().open(path, create=create, exclusive=exclusive, readonly=readonly)
        return _QuickFile(plain.path, plain._descriptor)

    def sync_folder(self, folder: Path) -> None:
        pass


class _QuickFile(File):
    def sync(self) -> None:
        pass


class _CrashingFile(File):
    def __init__(self, disk: CrashingDisk, plain: File, node: _Node) -> None:
        super().__init__(plain.path, plain._descriptor)
        self._disk = disk
        self._node = node

    def read(self, size: int, offset: int) -> bytes:
        if self._disk.is_off:
            raise PowerLoss
        return super().read(size, offset)

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._disk.before_write(self._node, bytes(data), offset)
        super().write(data, offset)
        self._disk.step()

    def sync(self) -> None:
        self._disk.step()
        self._node.unsynced.clear()
        self._disk.step()

    def truncate(self, size: int) -> None:
        self._disk.before_truncate(self._node, size)
        super().truncate(size)
        self._disk.step()
