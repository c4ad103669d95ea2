"""Folder names: levels of Unicode here, one word of modified UTF-7 with separators at the server.

    prefix "INBOX.", separator "."    b'INBOX.Archiv.&AOQ-lter'  ─▶  ('Archiv', 'älter')
    INBOX is INBOX, in any case, whatever the prefix.

A name that the server cannot have, because its own separator is in it or because it says no, gets the nearest that it
can: the mirror remembers both, so the difference is remarked and nothing depends on it.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

import attrs

from moverq.endpoints.mirrored.utf7 import from_utf7, to_utf7
from moverq.model.change import INBOX

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_TROUBLE: Final = re.compile(r"[%*#&/.\\~\"'|<>^;`{}]|^\s+|\s+$")
NAME_BYTES_MAX: Final = 240
"""Of one level: what servers that keep folders in files can take, with room for their own suffixes."""


@attrs.frozen
class Naming:
    """How a server puts names together: the personal namespace's prefix, and the separator (None: no levels)."""

    prefix: bytes = b""
    separator: bytes | None = b"/"
    utf8: bool = False
    """Names are in UTF-8, and not in modified UTF-7."""

    def levels(self, wire: bytes) -> tuple[str, ...]:
        """The levels that a name at the server says. A name with an empty level is taken as one level."""
        if wire.upper() == b"INBOX":
            return (INBOX,)
        rest = wire.removeprefix(self.prefix)
        parts = rest.split(self.separator) if self.separator else [rest]
        if not all(parts):
            return (self._decoded(rest),)
        if parts[0].upper() == b"INBOX":
            parts[0] = b"INBOX"
        return tuple(self._decoded(part) for part in parts)

    def parent_of(self, wire: bytes) -> bytes | None:
        """The wire name one level up; None at the top."""
        if self.separator is None or not all(wire.removeprefix(self.prefix).split(self.separator)):
            return None
        outer, found, _ = wire.rpartition(self.separator)
        if not found or outer + self.separator == self.prefix or not outer:
            return None
        return b"INBOX" if outer.upper() == b"INBOX" else outer

    def wire(self, parent: bytes | None, name: str) -> bytes:
        """What the server calls a folder `name` below `parent`."""
        if parent is None and name == INBOX:
            return b"INBOX"
        sayable = self._sayable(name)
        word = sayable.encode(errors="backslashreplace") if self.utf8 else to_utf7(sayable)
        if parent is None:
            return self.prefix + word
        return parent + self.separator + word if self.separator else parent + b"-" + word

    def candidates(self, parent: bytes | None, name: str, *, mark: str) -> Iterator[bytes]:
        """The name, and what to try where the server says no: plainer and plainer. `mark` tells namesakes apart."""
        tidy = unicodedata.normalize("NFC", name).strip()
        plain = _TROUBLE.sub("_", self._sayable(tidy)) or "_"
        ascii_only = re.sub(r"[^A-Za-z0-9_-]", "_", plain)[:40]
        for sayable in (name, tidy, plain, f"{plain}_{mark}", f"{ascii_only}_{mark}"):
            wire = self.wire(parent, sayable)
            if wire.upper() != b"INBOX" or (parent, name) == (None, INBOX):  # which `Inbox` would mean too
                yield wire

    def _decoded(self, part: bytes) -> str:
        return part.decode(errors="backslashreplace") if self.utf8 else from_utf7(part)

    def _sayable(self, name: str) -> str:
        if self.separator is not None:
            name = name.replace(self.separator.decode(), "_")
        return _CONTROL.sub("_", name) or "_"
