"""What is said, and which exit code given, where a verb ends by an error."""

import traceback
from collections.abc import Sequence

from moverq.cli import common
from moverq.endpoints.store import StoreError, move_error
from moverq.errors import leaves
from moverq.lmtp.reply import reply_for

LMTP_FOR_GOOD = 500


def failed(error: BaseException, words: Sequence[str]) -> int:
    """What went wrong, in a sentence; its exit code."""
    found = [move_error("?", leaf) if isinstance(leaf, StoreError) else leaf for leaf in leaves(error)]
    for leaf in found:
        if isinstance(leaf, common.Exit):
            return leaf.code
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in found):
        common.say(
            "moverq: interrupted. Nothing that was acknowledged is lost; what was begun goes on when it is asked for "
            "again, and queued moves with `moverq worker`."
        )
        return common.INTERRUPTED
    code = max(common.error_code(leaf) for leaf in found)
    if code == common.BUG:
        traceback.print_exception(error)
        common.say(
            "moverq: this is a bug in moverq, and not something you did. Nothing that was acknowledged is lost. "
            "Please report it with the lines above."
        )
    else:
        for leaf in found:
            said = f"{leaf.filename}: {leaf.strerror}" if isinstance(leaf, OSError) and leaf.filename else str(leaf)
            common.say(f"moverq: {said}", *getattr(leaf, "__notes__", ()))
    if words[:1] == ["deliver"] and reply_for("", error).code < LMTP_FOR_GOOD:
        return common.TEMPORARY  # the MTA keeps the message: whatever this is, it is not the message's fault
    return code
