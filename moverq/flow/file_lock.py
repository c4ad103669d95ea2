"""A lock between processes, by `flock` on a file: the kernel gives it back when its holder dies.

For efficiency alone (two workers that would take each other's moves over in turn), never for correctness: that is the
tokens' part, and holds on a file system where this does nothing.
"""

import fcntl
import os
from pathlib import Path

from moverq.errors import EndpointBroken


class FileLock:
    """Blocking, but never for long: call it through `Offload`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<FileLock {self._path.name} {'held' if self._descriptor is not None else 'free'}>"

    def try_acquire(self) -> bool:
        """Ours, or somebody else's. Raises `EndpointBroken` where there can be no such file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EndpointBroken(endpoint=str(self._path), why=f"cannot be made: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Not ours any more. The file stays: unlinking it would let two hold locks of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
