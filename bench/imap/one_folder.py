"""How much memory does a move between two IMAP servers take at its peak, where all mail is in one folder?

Administrators meet inboxes of hundreds of thousands of messages. Estimated: a listing is told in parts of 2,000, 1 MiB
each, of which two or three are held; pages, batches and SQLite's caches are the same at any size. So the peak is that
of a small folder: about 60 MiB, most of it Python and what it imports.
"""

import sys

import trio

from bench.common import Figure, arguments, tell
from bench.imap import mailbox
from bench.imap.site import linked, servers
from bench.imap.tools import Moverq
from moverq.endpoints.imap.connection import Piece
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.settings import parse
from tests.support.dovecot import Dovecot

FORMAT = "mdbox"
_BATCH = 2_000


def main() -> None:
    asked = arguments(__doc__, small=20_000, large=200_000, runs=1)
    peaks: dict[int, list[float]] = {asked.small: [], asked.large: []}
    for messages, found in peaks.items():
        with (
            servers(FORMAT, asked.dir) as (work, source, target),
            linked("plain", source, target, work, ["moverq"]) as sites,
        ):
            trio.run(fill, source, messages)
            for number in range(asked.runs):
                user = f"user{number}"
                mailbox.clone(source, user)
                tool = Moverq(sites[False], user)
                tool.prepare()
                used = tool.copy()
                found.append(used.rss_mib)
                print(f"{messages:,} messages: {used.seconds:.1f} s, {used.rss_mib:.0f} MiB", file=sys.stderr)
    figures = [Figure(f"a folder of {messages:,}", "MiB", tuple(found)) for messages, found in peaks.items()]
    growth = tuple(large / small for small, large in zip(peaks[asked.small], peaks[asked.large], strict=True))
    tell("imap.one_folder", [*figures, Figure("large to small", "", growth)], extra={"format": FORMAT}, save=asked.save)


async def fill(server: Dovecot, messages: int) -> None:
    """Small messages in the user's INBOX."""
    connection = await connect(parse(server.url(user=mailbox.USER)), mailbox.USER, answer_s=600)
    try:
        for begin in range(0, messages, _BATCH):
            pieces: list[Piece] = [b"APPEND INBOX"]
            for number in range(begin, min(begin + _BATCH, messages)):
                content = b"From: a@bench\r\nSubject: %d\r\nMessage-ID: <%d@bench>\r\n\r\n%d\r\n" % ((number,) * 3)
                flags = b"\\Seen" if number % 3 else b""
                pieces += (b' (%s) "%02d-Jan-2020 10:00:00 +0000" ' % (flags, 1 + number % 28), memoryview(content))
            await connection.run(*pieces)
    finally:
        await connection.aclose()


if __name__ == "__main__":
    main()
