"""What comes out of mail files and goes into them: `MailItem`, and `NotMail` for the rest."""

import attrs

from moverq.model.change import INBOX

MESSAGE_BYTES_MAX = 512 << 20
"""What one message may take in memory. Mail systems refuse long before; a file beyond it is reported instead."""


@attrs.frozen(slots=True)
class MailItem:
    """One message: its place, its bytes, and what a mail system keeps beside them."""

    folder: tuple[str, ...]
    """From the top, one name a level; never empty."""
    content: bytes
    received_ms: int
    flags: int
    """Bits of `moverq.model.change.Flag`."""
    keywords: tuple[str, ...]
    """Sorted, each once."""
    source: str = attrs.field(default="", eq=False)
    """Where it was read, for reports: a file, with `#n` for the n-th message of an mbox."""


@attrs.frozen(slots=True)
class NotMail:
    """A file that did not become a message, and why, in words an operator can act on."""

    path: str
    why: str
    may_be_mail: bool = False
    """It could not be read, or not taken: mail may be missing."""


def canonical_folder(names: tuple[str, ...]) -> tuple[str, ...]:
    """INBOX in capitals at the top however a file spells it (RFC 9051 §5.1), and INBOX where there is no name."""
    if not names or (len(names) == 1 and names[0].upper() == INBOX):
        return (INBOX,)
    return names
