"""Which folders are subscribed: the list that Dovecot keeps, in both its versions, and Courier's; blocking."""

import os
from collections.abc import Sequence
from typing import Final

from moverq.endpoints.files.dot_lock import is_nobodys, read_file, replace_file
from moverq.endpoints.files.owner import Owner

SUBSCRIPTIONS: Final = b"subscriptions"
COURIER_SUBSCRIBED: Final = b"courierimapsubscribed"


def read_subscriptions(root: bytes, separator: bytes, *, name: bytes = SUBSCRIPTIONS) -> frozenset[bytes]:
    """Names as on the wire. Courier's file counts where there is no other."""
    path = os.path.join(root, name)
    if os.path.exists(path):
        return frozenset(decode_subscriptions(read_file(path), separator)[1])
    courier = read_file(os.path.join(root, COURIER_SUBSCRIBED)).split(b"\n")
    return frozenset(b"INBOX" if line == b"INBOX" else line.removeprefix(b"INBOX.") for line in courier if line)


def decode_subscriptions(data: bytes, separator: bytes) -> tuple[bool, Sequence[bytes]]:
    """(version 2: levels are separated by tabs; the names)."""
    lines = data.split(b"\n")
    if lines[0].startswith(b"V\t2"):
        return True, [separator.join(line.split(b"\t")) for line in lines[1:] if line]
    return False, [line for line in lines if line]


def subscribe(
    root: bytes, wire: bytes, wanted: bool, *, separator: bytes, owner: Owner, name: bytes = SUBSCRIPTIONS
) -> None:
    """Durable. Raises `OSError`."""
    path = os.path.join(root, name)
    is_nobodys(path + b".lock")
    if (wire in read_subscriptions(root, separator, name=name)) == wanted and os.path.exists(path):
        return

    def change(data: bytes) -> bytes:
        is_second, names = (True, []) if not data else decode_subscriptions(data, separator)
        names = [name for name in names if name != wire] + ([wire] if wanted else [])
        if is_second:
            return b"V\t2\n\n" + b"".join(name.replace(separator, b"\t") + b"\n" for name in names)
        return b"".join(name + b"\n" for name in names)

    replace_file(path, change, owner)
