"""An mbox file opened, as whose mail it is; blocking.

A user makes links in his mail, and changes them at any moment; the mover may be root. So the file that is there is held
first, and asked then whose it is: one of the user's own is opened, wherever it lies, and any other only if he may do
that himself (`files/acting.py`). The kernel is not asked about the folders on the way to his own, for spools are closed
to users at some sites; nor are the locks made with his rights, for they are made in spools where he may not write.
"""

import errno
import os
import stat

from moverq.endpoints.files.acting import ROOT, acting_as, whose_path


def open_mbox(path: bytes | str, how: int) -> int:
    """The descriptor. Nothing but a regular file is opened. Raises `OSError`."""
    path = os.fsencode(path)
    user = whose_path(path) if os.geteuid() == 0 else ROOT
    held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        found = _regular(held, path)
        if user.uid in (0, found.st_uid):
            return os.open(f"/proc/self/fd/{held}", how)
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, os.fsdecode(path)) from error
    finally:
        os.close(held)
    with acting_as(user):
        descriptor = os.open(path, how | os.O_NONBLOCK)
    try:
        _regular(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _regular(descriptor: int, path: bytes) -> os.stat_result:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", os.fsdecode(path))
    return found
