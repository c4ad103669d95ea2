"""The form in which two messages are the same although a server changed a few bytes of one.

IMAP's messages have CRLF at the ends of lines, no NUL, and a header in ASCII. Our store and many Maildirs hold others.
Some servers turn NUL into 0x80, drop a CR that stands before CRLF or at the end, or add one; Cyrus puts an X for each
byte of a header that is not ASCII. So for content that has such the mirror keeps the hash of its normal form beside
that of the content, and either tells it again. Any other is compared byte by byte: it has no other form. A kind of
mailbox that gives back still other forms has a normal form of its own (`session.MailSession.normal`).
"""

import re
from collections.abc import Callable
from typing import Final

import stringzilla
import xxhash

Normal = Callable[[bytes], bytes]
_PIECE_BYTES = 256 << 10
"""Of a message looked at at a time: a large one is not held twice."""
_translate: Final[Callable[[bytes, bytes], bytes]] = stringzilla.translate
"""`bytes.translate`, many bytes at once."""
_IS_CR: Final = bytes(byte == ord("\r") for byte in range(256))
_IS_LF: Final = bytes(byte == ord("\n") for byte in range(256))
_LINE_END: Final = re.compile(rb"\r*\n")
_AS_X: Final = bytes(range(128)) + b"X" * 128


def content_hash(content: bytes) -> bytes:
    """The hash that `ItemState.content_hash` holds."""
    return xxhash.xxh3_128_digest(content)


def is_clean(content: bytes) -> bool:
    """Only CRLF, no NUL: its lines can be kept with other ends and be given back as they came."""
    return b"\0" not in content and _is_all_crlf(content)


def _is_all_crlf(content: bytes) -> bool:
    """Each CR stands before an LF, and each LF behind a CR. All bytes of all messages come through here."""
    for at in range(0, len(content), _PIECE_BYTES):
        piece = content[at : at + _PIECE_BYTES + 1]  # its last byte is the first of the next
        if _translate(piece, _IS_CR)[:-1] != _translate(piece, _IS_LF)[1:]:
            return False
    return not (content.startswith(b"\n") or content.endswith(b"\r"))


def has_ascii_header(content: bytes) -> bool:
    return content.isascii() or content[: _header_bytes(content)].isascii()


def normal(content: bytes) -> bytes:
    """CRLF line ends, no other CR, 0x80 for NUL, in the header X for what is not ASCII."""
    content = _LINE_END.sub(b"\n", content).replace(b"\r", b"").replace(b"\n", b"\r\n").replace(b"\0", b"\x80")
    header_bytes = _header_bytes(content)
    return content[:header_bytes].translate(_AS_X) + content[header_bytes:]


def _header_bytes(content: bytes) -> int:
    end = content.find(b"\r\n\r\n")
    return len(content) if end < 0 else end


def normal_hash(content: bytes) -> bytes | None:
    """The normal form's hash; None where the content is clean and its header ASCII: it is its own normal form."""
    return None if is_clean(content) and has_ascii_header(content) else content_hash(normal(content))


def as_sent(content: bytes) -> bytes:
    """The content with CRLF at the ends of its lines, as IMAP wants it; nothing else is changed."""
    if content.count(b"\n") == content.count(b"\r\n"):
        return content
    return re.sub(rb"(?<!\r)\n", b"\r\n", content)


def is_same(content: bytes, wanted: bytes, wanted_normal: bytes | None, form: Normal = normal) -> bool:
    """Is this the content with that hash, or with that normal form?"""
    if content_hash(content) == wanted:
        return True
    return wanted_normal is not None and content_hash(form(content)) == wanted_normal
