"""Annotations of folders (METADATA, RFC 5464): a comment, a groupware's folder type.

They travel as attributes of the folder, under their entry names (`/private/comment`), whose slash no other attribute
has. Nothing at a server tells of a change, so they are read when a mailbox is first looked at, of a folder that is new,
and once more at the lock. What a server keeps about itself is left out, and what is no text.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from moverq.endpoints.imap.connection import Connection, MailboxName, astring, words
from moverq.endpoints.imap.wire import Literal, Response

OWN: Final = ("/vendor/cmu/cyrus-imapd", "/vendor/vendor.dovecot", "/specialuse", "/thread")
"""Below /private or /shared: sizes, dates and switches of the server that has them. Special uses travel otherwise."""
VALUE_BYTES_MAX: Final = 64 << 10


async def read_annotations(connection: Connection, folders: Sequence[bytes]) -> dict[bytes, dict[str, str]]:
    """By folder, those of them that have some; a folder that the server refuses to tell of has none.

    Raises: EndpointUnavailable.
    """
    found: dict[bytes, dict[str, str]] = {}
    if not connection.has(b"METADATA"):
        return found

    def take(response: Response) -> None:
        said = words(response)
        if bytes(said[0]).upper() != b"METADATA" or len(said) < 3 or not isinstance(said[2], list):
            return
        for name, value in zip(said[2][::2], said[2][1::2], strict=False):
            said_name = bytes(name).lower()
            if not said_name.startswith((b"/private/", b"/shared/")) or not said_name.isascii():
                continue
            entry = said_name.decode("ascii")
            below = "/" + entry.partition("/")[2].partition("/")[2]
            if isinstance(value, Literal) and len(value) <= VALUE_BYTES_MAX and not below.startswith(OWN):
                try:
                    found.setdefault(connection.mailbox_named(said[1]), {})[entry] = value.decode("utf-8")
                except UnicodeDecodeError:
                    continue

    asked = [
        await connection.start(b"GETMETADATA (DEPTH infinity) ", MailboxName(wire), b" (/private /shared)", take=take)
        for wire in folders
    ]
    await connection.refusals(asked)
    return found


async def write_annotations(
    connection: Connection, wire: bytes, wanted: Mapping[str, str], present: Mapping[str, str]
) -> int:
    """The folder has what is wanted and was not there in this form; how many the server does not keep.

    Raises: EndpointUnavailable.
    """
    unlike = {name: value for name, value in wanted.items() if present.get(name) != value}
    if not connection.has(b"METADATA"):
        return len(unlike)
    asked = [
        await connection.start(b"SETMETADATA ", MailboxName(wire), b" (" + name.encode() + b" ", astring(value), b")")
        for name, value in unlike.items()
    ]
    return sum(refused is not None for refused in await connection.refusals(asked))
