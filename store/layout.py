"""The only module that knows a file name.

<database>/
  commit.lock               the one mutex between processes
  open.lock                 shared by everybody who has the database open; exclusive for work that needs it alone
  hold.lock                 shared by who reads all files as they stand; exclusive for removing some
  log/00000001.log …        the truth
  content/00000001.seg …    the bytes of items
  catalogue.sqlite          where everything is: derived, never ahead of the log
  checkpoints/…             sealed copies of the catalogue
  from-content.new/         a rebuild from content, being written; of no use to anybody else
  from-content/             it is whole, and takes its place file by file: until it is gone there is no database
  before-rebuild-…/         log, checkpoints and catalogue as they were before it
"""

import re
from pathlib import Path

import attrs

from store.ids import LogPosition, Signature

_GENERATION = re.compile(r"(\d{8})\.log")
_SEGMENT = re.compile(r"(\d{8})\.seg")
_SEAL = re.compile(r"([0-9a-f]{32})-(\d{8})-(\d{12})\.seal")


@attrs.frozen
class Layout:
    """Where a database's files are."""

    root: Path

    @property
    def commit_lock(self) -> Path:
        return self.root / "commit.lock"

    @property
    def open_lock(self) -> Path:
        return self.root / "open.lock"

    @property
    def hold_lock(self) -> Path:
        return self.root / "hold.lock"

    @property
    def catalogue(self) -> Path:
        return self.root / "catalogue.sqlite"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def content(self) -> Path:
        return self.root / "content"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def draft(self) -> Path:
        return self.root / "from-content.new"

    @property
    def rebuilt(self) -> Path:
        return self.root / "from-content"

    def generation(self, number: int) -> Path:
        return self.log / f"{number:08d}.log"

    def segment(self, number: int) -> Path:
        return self.content / f"{number:08d}.seg"

    def scratch(self, name: str) -> Path:
        """What a check called `name` makes, and removes; see `is_scratch`."""
        return self.root / f"check-{name}.tmp"

    def checkpoint(self, signature: Signature, position: LogPosition) -> Path:
        """The copied catalogue; its seal has the suffix `.seal`."""
        return self.checkpoints / f"{signature.hex()}-{position.generation:08d}-{position.offset:012d}.sqlite"


def is_scratch(name: str) -> bool:
    """Is this the file name of what a check makes?"""
    return name.startswith("check") and name.endswith(".tmp")


def generation_numbers(names: list[str]) -> list[int]:
    """The generations among these file names, oldest first."""
    return sorted(int(match[1]) for name in names if (match := _GENERATION.fullmatch(name)))


def segment_numbers(names: list[str]) -> list[int]:
    """The segments among these file names, oldest first."""
    return sorted(int(match[1]) for name in names if (match := _SEGMENT.fullmatch(name)))


def sealed_checkpoints(names: list[str]) -> list[tuple[Signature, LogPosition]]:
    """The checkpoints whose seal is among these file names, oldest first."""
    found = [
        (Signature(bytes.fromhex(match[1])), LogPosition(int(match[2]), int(match[3])))
        for name in names
        if (match := _SEAL.fullmatch(name))
    ]
    return sorted(found, key=lambda pair: pair[1])
