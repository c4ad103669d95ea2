"""What a client is told: a code (RFC 5321), an enhanced code (RFC 3463), and a sentence.

The rule that everything follows: 5xx ends a message for good, so only what is the message's or the address's own fault
gets one. A lock, a broken disk, a missing database and a bug of ours are all 4xx: the MTA keeps the message, and the
delivery key sees to it that it arrives once.
"""

import re

import attrs

from moverq.errors import EndpointBroken, MailboxLocked, MailboxMoved, NotFound, RequestRefused, ServedElsewhere, leaves

TEXT_BYTES_MAX = 400
"""Of a sentence; a reply line has 512 (RFC 5321 §4.5.3.1.5)."""


@attrs.frozen
class Reply:
    """One reply line. `enhanced` is empty where none belongs (220, 354)."""

    code: int
    enhanced: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    def __bytes__(self) -> bytes:
        """With its end. What came from the client, or from an error, cannot end the line early."""
        line = re.sub(r"[\x00-\x1f\x7f]+", " ", str(self)).encode(errors="replace")
        if len(line) > TEXT_BYTES_MAX:
            line = line[:TEXT_BYTES_MAX].decode(errors="ignore").encode()
        return line + b"\r\n"


def multiline(code: int, texts: list[str]) -> bytes:
    """One reply of several lines."""
    last = len(texts) - 1
    return b"".join(f"{code}{' ' if n == last else '-'}{text}\r\n".encode() for n, text in enumerate(texts))


def reply_for(recipient: str, error: BaseException) -> Reply:
    """The strongest claim of what went wrong, in this order: for good only if every leaf says so."""
    found = [_reply(recipient, leaf) for leaf in leaves(error)]
    return min(found, key=lambda reply: reply.code)


def _reply(recipient: str, error: BaseException) -> Reply:
    match error:
        case MailboxLocked() | MailboxMoved():
            return Reply(451, "4.2.1", f"<{recipient}> is being moved; try again in a moment")
        case NotFound(kind="recipient"):
            return Reply(550, "5.1.1", f"<{recipient}> has no mailbox here")
        case ServedElsewhere():
            return Reply(451, "4.3.0", f"<{recipient}> {error}; mail for it is to be routed there")
        case RequestRefused():
            return Reply(552, "5.2.2", f"<{recipient}> {error}")
        case EndpointBroken():
            return Reply(451, "4.3.0", f"<{recipient}> the mail store needs its operator")
        case _:
            return Reply(451, "4.3.0", f"<{recipient}> not now; try again later")
