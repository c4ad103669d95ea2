"""A delivery agent and a mail client of mbox files: appends and rewrites, as mail programs do them, under the locks."""

import itertools
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest

from moverq.endpoints.mbox.appending import Message, append
from moverq.endpoints.mbox.index import Index, read_index, read_raw
from moverq.endpoints.mbox.message import as_stored, taken_apart
from moverq.endpoints.mbox.rewriting import Changes, rewrite
from moverq.model.ids import ItemId

VALIDITY = 1_600_000_000
_NUMBERS = itertools.count(1)


@attrs.frozen
class MboxClient:
    """Folders by their names on the wire, messages by their bases. Folders inside others lie in `.sbd`.

    Each message has another sender on its separator: tests tell equal messages apart, which an mbox does not."""

    root: Path

    def path(self, folder: str) -> Path:
        if folder == "INBOX":
            return self.root / "inbox"
        *above, name = folder.split("/")
        return self.root.joinpath(*(f"{level}.sbd" for level in above), name)

    def make(self, folder: str) -> Path:
        path = self.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def subscribe(self, folder: str) -> None:
        with open(self.root / ".subscriptions", "a") as file:
            file.write(f"{folder}\n")

    def deliver(self, content: bytes, folder: str = "INBOX") -> str:
        return self.append(folder, content)

    def append(
        self,
        folder: str,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
    ) -> str:
        date = 1_700_000_000_000 if received_ms is None else received_ms
        return self._append(folder, as_stored(content), flags, tuple(sorted(set(keywords))), date)

    def _append(self, folder: str, text: bytes, flags: int, keywords: tuple[str, ...], received_ms: int) -> str:
        if self.index(folder).entries:
            self._rewrite(folder, Changes(keywords=frozenset(keywords), validity=VALIDITY))
        message = Message(ItemId(b""), b"client%d" % next(_NUMBERS), received_ms, text, flags, keywords)
        validity = VALIDITY if keywords else 0
        path = os.fsencode(self.path(folder))
        with tempfile.TemporaryDirectory() as place:
            announcement = os.fsencode(place) + b"/append"
            _, (base,) = append(path, [message], announcement=announcement, validity=validity, known=None)
        return base.decode()

    def index(self, folder: str) -> Index:
        return read_index(os.fsencode(self.path(folder)), is_ours=True)

    def _rewrite(self, folder: str, changes: Changes) -> None:
        with tempfile.TemporaryDirectory() as place:
            rewrite(os.fsencode(self.path(folder)), changes, os.fsencode(place) + b"/journal", lambda there, new: b"")

    def set_flags(self, folder: str, base: str, flags: int, keywords: Iterable[str] = ()) -> None:
        words = tuple(sorted(set(keywords)))
        self._rewrite(
            folder, Changes(flags={base.encode(): (flags, words)}, keywords=frozenset(words), validity=VALIDITY)
        )

    def delete(self, folder: str, base: str) -> None:
        self._rewrite(folder, Changes(gone=frozenset({base.encode()})))

    def copy(self, folder: str, base: str, target: str) -> str:
        entry = self.index(folder).entries[base.encode()]
        _, bare = taken_apart(read_raw(os.fsencode(self.path(folder)), entry)[1])
        return self._append(target, bare, entry.flags, entry.keywords, entry.received_ms)

    def move(self, folder: str, base: str, target: str) -> None:
        self.copy(folder, base, target)
        self.delete(folder, base)

    def rename_folder(self, old: str, new: str) -> None:
        self.path(new).parent.mkdir(parents=True, exist_ok=True)
        for ending in (".sbd", ""):
            source = self.path(old).with_name(self.path(old).name + ending)
            if source.exists():
                source.rename(self.path(new).with_name(self.path(new).name + ending))

    def delete_folder(self, folder: str) -> None:
        self.path(folder).unlink()

    def break_item(self, folder: str, base: str) -> None:
        pytest.skip("an mbox has no message that is there and cannot be read")


def without_fields(text: bytes) -> bytes:
    """An mbox without what mail programs keep in it."""
    return re.sub(rb"(?m)^(Status|X-Status|X-Keywords|X-UID|X-IMAPbase|Content-Length):.*\n", b"", text)
