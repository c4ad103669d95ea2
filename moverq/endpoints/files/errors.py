"""What cures an `OSError` that files of a mailbox gave."""

import errno
import os
from typing import Final

from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable, MoveError, RequestRefused

FULL_S: Final = 60.0
"""How long a full disk or quota is left alone."""
_REFUSED: Final = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EILSEQ}
)


def as_move_error(error: OSError, endpoint: str, *, doing: str) -> MoveError:
    """What cures it."""
    why = f"{doing}: {error.strerror or error}" + (f" ({os.fsdecode(error.filename)})" if error.filename else "")
    if error.errno in _REFUSED or isinstance(error, FileExistsError):
        return RequestRefused(why=f"{endpoint} cannot {why}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EndpointBusy(endpoint=f"{endpoint} (no space left)", retry_after_s=FULL_S)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EndpointBroken(endpoint=endpoint, why=f"it cannot {why}")
    return EndpointUnavailable(endpoint=endpoint, why=f"it cannot {why}")
