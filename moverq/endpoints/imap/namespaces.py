"""Whose a folder is, by its name (RFC 2342): the user's, somebody else's, or everybody's.

    (("INBOX." ".")("Archive." ".")) (("user." ".")) (("" "."))
      INBOX, INBOX.Sent, Archive.2020   the user's        user.bob, board   not

A folder is in the namespace with the longest prefix that its name begins with, at an end of a level. One that is in
none is the user's: of whom else would his server tell him? INBOX is his wherever it is.
"""

from collections.abc import Sequence

import attrs

from moverq.endpoints.imap.connection import Connection, Refused, error_of, words
from moverq.endpoints.imap.wire import Literal, Response
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.errors import RequestRefused


@attrs.frozen(kw_only=True)
class Namespace:
    """One of them."""

    prefix: bytes
    separator: bytes | None
    is_personal: bool

    @property
    def stem(self) -> bytes:
        """The prefix, as a server names the root by it."""
        return self.prefix.removesuffix(self.separator) if self.separator else self.prefix

    def has(self, wire: bytes) -> bool:
        """Is this the name of a folder in it, or of its root?"""
        stem = self.stem
        if not self.prefix or wire == stem:
            return True
        if stem == self.prefix:  # it does not end where a level does, so what goes on in the same level is another name
            return self.separator is not None and wire.startswith(stem + self.separator)
        return wire.startswith(self.prefix)


@attrs.frozen
class Namespaces:
    """All of a server's. One at least is personal, and the first of these is where folders are made."""

    all: Sequence[Namespace] = (Namespace(prefix=b"", separator=b"/", is_personal=True),)

    @property
    def naming(self) -> Naming:
        first = next(one for one in self.all if one.is_personal)
        return Naming(first.prefix, first.separator)

    def is_users(self, wire: bytes) -> bool:
        """Raises `RequestRefused` where it is, and its levels cannot be told from its name."""
        having = [one for one in self.all if one.has(wire)]
        if wire == b"INBOX" or not having:
            return True
        found = max(having, key=lambda one: (len(one.prefix), one.is_personal))
        if found.is_personal and found.separator != self.naming.separator and wire != found.stem:
            raise RequestRefused(
                why=f"the folder {wire.decode('ascii', 'replace')!r} is in a namespace with another separator "
                f"({_shown(found)}) than the other folders of its user have ({_shown(self.all[0])}), which cannot be "
                f"moved: give both one separator at the server, or move the folder out of it first"
            )
        return found.is_personal


def _shown(namespace: Namespace) -> str:
    return repr((namespace.separator or b"").decode("ascii", "replace"))


async def namespaces_of(connection: Connection) -> Namespaces:
    """Raises: EndpointUnavailable, EndpointBusy, EndpointBroken, RequestRefused."""
    personal: list[Namespace] = []
    others: list[Namespace] = []

    def take(response: Response) -> None:
        said_words = words(response)
        kind = bytes(said_words[0]).upper()
        if kind == b"NAMESPACE":
            for place, space in enumerate(said_words[1:4]):
                for prefix, separator, *_ in space if isinstance(space, list) else ():
                    name = connection.mailbox_named(prefix)
                    one = Namespace(prefix=name, separator=_separator(separator), is_personal=place == 0)
                    (others if place else personal).append(one)
        elif kind == b"LIST":
            personal.append(Namespace(prefix=b"", separator=_separator(said_words[2]), is_personal=True))

    try:
        if connection.has(b"NAMESPACE"):
            await connection.run(b"NAMESPACE", take=take)
        if not personal:
            await connection.run(b'LIST "" ""', take=take)
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing="say how its folders are named") from refused
    return Namespaces((*(personal or Namespaces().all), *others))


def _separator(word: object) -> bytes | None:
    return bytes(word) if isinstance(word, Literal) and word else None


__all__ = ["Namespace", "Namespaces", "namespaces_of"]
