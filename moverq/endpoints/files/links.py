"""What is there by a link: files that its maker may not read himself, and folders that have two names."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from moverq.endpoints.mirrored.listed import Listed

LEADS_NOWHERE: Final = (errno.ENOENT, errno.ELOOP)


def leads_to(path: bytes) -> int:
    """The mode of what is there, by a link or without; 0 where there is nothing, or a link that leads nowhere.

    Raises `OSError` where that cannot be seen.
    """
    try:
        return os.stat(path).st_mode
    except NotADirectoryError:
        return 0
    except OSError as error:
        if error.errno not in LEADS_NOWHERE:
            raise
        return 0


def open_mail(path: bytes | str, how: int) -> int:
    """The file, opened. We may be root, and a user make links in his mail: what they lead to has to be his own, or root
    made the link.

    Raises `OSError`: PermissionError where neither is so.
    """
    try:
        return os.open(path, how | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    maker = os.lstat(path).st_uid
    descriptor = os.open(path, how)
    if os.geteuid() == 0 and maker not in (0, os.fstat(descriptor).st_uid):
        os.close(descriptor)
        raise PermissionError(errno.EACCES, "it is a symbolic link to a file of another user's", os.fsdecode(path))
    return descriptor


def told_apart(found: Sequence[Listed], *, root: bytes, path: Callable[[bytes], bytes]) -> list[Listed]:
    """Each is a folder, as a mail server shows it too: those that are one object on the disk are not taken for one that
    was renamed. Who is there by a link has its name as a part of what it is. `path`: of a folder, by its name."""
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


__all__ = ["LEADS_NOWHERE", "leads_to", "open_mail", "told_apart"]
