"""`moverq deliver`: one message from stdin, as an MTA's pipe hands it over.

    mailbox_command = moverq deliver --root /srv/moverq "$RECIPIENT" --sender "$SENDER"

Exits 75 (EX_TEMPFAIL) while the mailbox is locked, and for anything that is not the message's own fault: the MTA keeps
the message and tries again, and the delivery key sees to it that it arrives once.

Postfix's `local` puts a line `From sender date` in front, as for an mbox. It is no part of the message, and has the
time of the attempt in it, by which the next one would be another message: so it is taken off.
"""

import sys
from typing import Annotated

from cyclopts import Parameter

from moverq.cli.common import ROOT, RootOption, answer


async def deliver(
    address: str,
    /,
    *,
    sender: Annotated[str, Parameter(help="The envelope's sender: a part of the delivery key.")] = "",
    key: Annotated[
        str | None, Parameter(help="Your own delivery key. The same key with the same bytes is delivered once.")
    ] = None,
    root: RootOption = ROOT,
) -> None:
    """Deliver one message from stdin; exits 75 while the mailbox is locked.

    The same message (sender, recipient and all bytes) is delivered once, however often this is called.
    """
    from moverq.errors import RequestRefused
    from moverq.limits import Limits
    from moverq.mailfiles.text import from_line_ms, split_from_line
    from moverq.root import open_root

    most = Limits().lmtp_message_bytes_max
    # Not in a thread: nothing else runs yet, and Ctrl-C ends a read here, which there it would wait for.
    content = sys.stdin.buffer.read(most + 1)
    if len(content) > most:
        raise RequestRefused(why=f"the message is larger than the {most:,} bytes that can be delivered")
    line, message = split_from_line(content)
    if from_line_ms(line) is not None:
        content = message
    if not content:
        raise RequestRefused(why="there is no message on stdin")
    async with open_root(root) as opened:
        added = await opened.deliver(address, content, sender=sender, key=None if key is None else key.encode())
    answer(None, "delivered" if added else "was delivered before", json=False)
