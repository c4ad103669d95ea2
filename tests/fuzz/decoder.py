"""A decoder under test: inputs to begin with, and a judge of what it makes of any other.

The judge is the claim, the same for every driver (the mutator of the tests, atheris under `make fuzz`, an input that
was once found): bytes from outside are *taken*, and then mean what they say when written down again, or *refused*
by the error the decoder documents, with its place and reason. Whatever else it raises is a bug, and so is an answer
that takes long or asks the disk for more than there is.
"""

import atexit
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import attrs

from store.disk import Disk, File

TAKEN, REFUSED = "taken", "refused"


@attrs.frozen
class Decoder:
    """`judge` returns `TAKEN` or `REFUSED`, or raises."""

    name: str
    judge: Callable[[bytes], str]
    seeds: tuple[bytes, ...]

    def __str__(self) -> str:
        return self.name


class MemoryFile(File):
    """Bytes as a file of the store; to ask for far more than it holds is what a lying length in it would do."""

    SLACK_BYTES = 64 << 20

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(path, -1)
        self.content = bytearray(content)

    def read(self, size: int, offset: int) -> bytes:
        assert 0 <= size <= len(self.content) + self.SLACK_BYTES, f"{size} bytes asked of {len(self.content)}"
        assert offset >= 0, f"a read at {offset}"
        return bytes(self.content[offset : offset + size])

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self.content[offset : offset + len(data)] = data

    def sync(self) -> None:
        pass

    def size(self) -> int:
        return len(self.content)

    def close(self) -> None:
        pass


class MemoryDisk(Disk):
    """Some files, by path."""

    def __init__(self, files: dict[Path, bytes]) -> None:
        self._files = files

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        if path not in self._files:
            raise FileNotFoundError(path)
        return MemoryFile(path, self._files[path])

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in self._files if path.parent == folder)


def buffered(data: bytes) -> io.BufferedReader:
    """Bytes as a file that is read forward."""
    return io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


def place_in_memory() -> Path:
    """A folder for inputs that have to be files, in memory where there is room for it; gone with the process."""
    place = Path(tempfile.mkdtemp(prefix="moverq-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
