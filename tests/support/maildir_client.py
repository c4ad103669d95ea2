"""A delivery agent and a mail client of a Maildir, by files alone: what a server does to it, without one."""

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

_NUMBERS = itertools.count(1)
_FLAGS = {1: "S", 2: "R", 4: "F", 8: "T", 16: "D"}


@attrs.frozen
class MaildirClient:
    """Folders by their names on the wire, messages by their base names."""

    root: Path

    def path(self, folder: str) -> Path:
        return self.root if folder == "INBOX" else self.root / f".{folder}"

    def make(self, folder: str) -> Path:
        for place in ("tmp", "new", "cur"):
            (self.path(folder) / place).mkdir(parents=True, exist_ok=True)
        return self.path(folder)

    def subscribe(self, folder: str) -> None:
        with open(self.root / "subscriptions", "a") as file:
            file.write(f"{folder}\n")

    def deliver(self, content: bytes, folder: str = "INBOX", *, received_ms: int | None = None) -> str:
        """As a delivery agent does: tmp, link into new. Returns the base name."""
        base = self.name()
        temporary = self.path(folder) / "tmp" / base
        temporary.write_bytes(content)
        if received_ms is not None:
            os.utime(temporary, ns=(received_ms * 1_000_000,) * 2)
        os.link(temporary, self.path(folder) / "new" / base)
        temporary.unlink()
        return base

    def append(
        self,
        folder: str,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
        name: str | None = None,
    ) -> str:
        """Into `cur`, as an IMAP server does."""
        base = name or self.name()
        path = self.path(folder) / "cur" / f"{base}{self.info(folder, flags, keywords)}"
        path.write_bytes(content)
        if received_ms is not None:
            os.utime(path, ns=(received_ms * 1_000_000,) * 2)
        return base

    def name(self) -> str:
        return f"{int(time.time())}.M{next(_NUMBERS)}P{os.getpid()}.client"

    def info(self, folder: str, flags: int, keywords: Iterable[str]) -> str:
        letters = [letter for bit, letter in _FLAGS.items() if flags & bit]
        letters += [self.letter(folder, word) for word in sorted(set(keywords))]
        return ":2," + "".join(sorted(letters))

    def letter(self, folder: str, word: str) -> str:
        """The keyword's letter, given out as Dovecot does."""
        path = self.path(folder) / "dovecot-keywords"
        words = [line.split(" ", 1)[1] for line in path.read_text().splitlines()] if path.exists() else []
        if word not in words:
            words.append(word)
            temporary = path.with_name("dovecot-keywords.tmp")
            temporary.write_text("".join(f"{number} {known}\n" for number, known in enumerate(words)))
            temporary.rename(path)
        return chr(ord("a") + words.index(word))

    def files(self, folder: str) -> Iterator[Path]:
        for place in ("new", "cur"):
            yield from (self.path(folder) / place).iterdir()

    def find(self, folder: str, base: str) -> Path:
        return next(path for path in self.files(folder) if base_of(path.name) == base)

    def set_flags(self, folder: str, base: str, flags: int, keywords: Iterable[str] = ()) -> None:
        path = self.find(folder, base)
        stem = path.name.partition(":")[0]
        path.rename(self.path(folder) / "cur" / (stem + self.info(folder, flags, keywords)))

    def move(self, folder: str, base: str, target: str) -> str:
        """As Dovecot does: a link of a new name, keywords by the letters there, then the old one goes."""
        new = self.copy(folder, base, target)
        self.find(folder, base).unlink()
        return new

    def copy(self, folder: str, base: str, target: str) -> str:
        path = self.find(folder, base)
        letters = path.name.partition(":2,")[2]
        known = self.path(folder) / "dovecot-keywords"
        words = [line.split(" ", 1)[1] for line in known.read_text().splitlines()] if known.exists() else []
        keywords = [words[ord(letter) - ord("a")] for letter in letters if letter.islower()]
        flags = sum(bit for bit, letter in _FLAGS.items() if letter in letters)
        new = self.name()
        os.link(path, self.path(target) / "cur" / f"{new}{self.info(target, flags, keywords)}")
        return new

    def delete(self, folder: str, base: str) -> None:
        self.find(folder, base).unlink()

    def rename_folder(self, old: str, new: str) -> None:
        for path in sorted(self.root.iterdir()):
            if path.name == f".{old}" or path.name.startswith(f".{old}."):
                path.rename(self.root / f".{new}{path.name[len(old) + 1 :]}")

    def delete_folder(self, folder: str) -> None:
        for path in sorted(self.path(folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        self.path(folder).rmdir()

    def break_item(self, folder: str, base: str) -> None:
        path = self.find(folder, base)
        path.unlink()
        path.mkdir()


def base_of(name: str) -> str:
    return re.sub(r",[SW]=\d+", "", name.partition(":")[0])
