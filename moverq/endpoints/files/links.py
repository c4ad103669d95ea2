"""Folders that are there under two names, by a link: each is a folder, as a mail server shows it too."""

import os
from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from moverq.endpoints.mirrored.listed import Listed


def told_apart(found: Sequence[Listed], *, root: bytes, path: Callable[[bytes], bytes]) -> list[Listed]:
    """Those that are one object on the disk are not taken for one folder that was renamed: who is there by a link has
    its name as a part of what it is. `path`: of a folder, by its name."""
    times = Counter(one.mailbox_object for one in found if one.mailbox_object)

    def is_link(wire: bytes) -> bool:
        place = path(wire)
        return os.path.realpath(place) != os.path.join(os.path.realpath(root), os.path.relpath(place, root))

    return [
        attrs.evolve(one, mailbox_object=one.mailbox_object + b"." + one.wire)
        if times[one.mailbox_object] > 1 and one.wire != b"INBOX" and is_link(one.wire)
        else one
        for one in found
    ]


__all__ = ["told_apart"]
