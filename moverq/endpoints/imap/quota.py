"""What the server's quota of INBOX still lets in (RFC 9208; RFC 2087 said the same)."""

from typing import Any

from moverq.endpoints.base import Room
from moverq.endpoints.imap.connection import Connection, Refused, words
from moverq.endpoints.imap.wire import Response, number

STORAGE_BYTES = 1024
"""STORAGE is counted in units of so many bytes."""


async def read_room(connection: Connection) -> Room:
    """The least that any quota root of INBOX leaves. No quota, or none that the server tells: no bound.

    Raises: EndpointUnavailable.
    """
    left: dict[bytes, list[int]] = {}

    def take(response: Response) -> None:
        said: list[Any] = words(response)
        if bytes(said[0]).upper() != b"QUOTA":
            return
        bounds = said[2]
        for at in range(0, len(bounds) - 2, 3):
            used, most = number(bounds[at + 1]), number(bounds[at + 2])
            left.setdefault(bytes(bounds[at]).upper(), []).append(max(0, most - used))

    if any(word == b"QUOTA" or word.startswith(b"QUOTA=") for word in connection.capabilities):
        try:
            await connection.run(b"GETQUOTAROOT INBOX", take=take)
        except Refused:
            return Room()
    storage, items = left.get(b"STORAGE"), left.get(b"MESSAGE")
    return Room(bytes=min(storage) * STORAGE_BYTES if storage else None, items=min(items) if items else None)
