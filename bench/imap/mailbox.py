"""The mailbox that is moved: made of a seed, cloned for each run of each tool, changed as its user would.

Log-normal sizes with a median of 12 KiB, lines of mail, ten years of dates in six zones, flags, keywords, `\\Deleted`
mail, exact duplicates, mail without a Message-ID, folder names with umlauts, spaces and `&`.
"""

import os
import random
import shutil
from collections.abc import Sequence
from typing import Final

from moverq.endpoints.imap.connection import Connection, MailboxName, Piece
from moverq.endpoints.imap.listing import flag_words
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.settings import parse
from moverq.endpoints.mirrored.utf7 import to_utf7
from tests.support.dovecot import Dovecot

USER: Final = "bench"
FLAGS: Final = ((0, ()), (1, ()), (1, ("$Forwarded",)), (3, ()), (5, ("work",)), (0, ("later", "work")), (9, ()))
NEW, REFLAGGED, DELETED = 50, 200, 30
"""What happens at the source between the copy and the second look."""
_ZONES: Final = (b"+0000", b"+0100", b"+0200", b"-0500", b"-0800", b"+0530")
_BATCH: Final = 50


def folder_names(server: Dovecot, count: int) -> list[bytes]:
    """As the server's users write them."""
    between = "/" if server.mail_format == "mdbox" else "."
    words = ("Projekte", "Ablage & Archiv", "Größe", "Отпуск", "客户", "Lists", "with space")
    names = [f"{words[n % len(words)]} {n}" if n % 3 else f"Archive{between}Jahr {n}" for n in range(1, count)]
    return [b"INBOX", *map(to_utf7, names)]


async def fill(server: Dovecot, messages: int, folders: int) -> int:
    """The mailbox of `USER` is at the server; its bytes."""
    rng = random.Random(20_260_701)
    alphabet = b"abcdefghijklmnopqrstuvwxyz     "
    line = [bytes(rng.choices(alphabet, k=rng.randrange(40, 76))) + b"\r\n" for _ in range(20_000)]
    text = b"".join(line)
    total = 0
    connection = await connect(parse(server.url(user=USER)), USER, answer_s=120)
    try:
        names = folder_names(server, folders)
        for name in names[1:]:
            await connection.run(b"CREATE ", MailboxName(name))
            await connection.run(b"SUBSCRIBE ", MailboxName(name))
        share = messages // folders
        for at, name in enumerate(names):
            here = share if at else messages - share * (folders - 1)
            made = [_message(rng, text, at * 100_000 + number) for number in range(here)]
            for number in range(0, here - 1, 100):
                made[number + 1] = made[number]  # an exact duplicate, with its date
            total += sum(len(content) for content, _ in made)
            await _append(connection, name, rng, made)
    finally:
        await connection.aclose()
    return total


def _message(rng: random.Random, text: bytes, number: int) -> tuple[bytes, bytes]:
    """(content, date)."""
    size = min(len(text) // 2, int(rng.lognormvariate(9.4, 1.2)))
    begin = text.index(b"\n", rng.randrange(len(text) // 2)) + 1
    end = text.find(b"\n", begin + size) + 1
    head = b"" if rng.random() < 0.02 else b"Message-ID: <%d@bench>\r\n" % number
    date = b'"%02d-%s-%d %02d:%02d:%02d %s"' % (
        rng.randrange(1, 29),
        rng.choice(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()),
        rng.randrange(2015, 2025),
        rng.randrange(24),
        rng.randrange(60),
        rng.randrange(60),
        rng.choice(_ZONES),
    )
    return head + b"From: a@bench\r\nSubject: %d\r\n\r\n" % number + text[begin:end], date


async def _append(connection: Connection, name: bytes, rng: random.Random, made: Sequence[tuple[bytes, bytes]]) -> None:
    for begun in range(0, len(made), _BATCH):
        pieces: list[Piece] = [b"APPEND ", MailboxName(name)]
        for content, date in made[begun : begun + _BATCH]:
            flags, keywords = rng.choice(FLAGS)
            pieces += [b" (" + flag_words(flags, keywords) + b") " + date + b" ", memoryview(content)]
        await connection.run(*pieces)


async def change(server: Dovecot, user: str, folders: int) -> None:
    """`NEW` messages came, `REFLAGGED` were read or marked, `DELETED` are gone for good."""
    rng = random.Random(20_260_702)
    names = folder_names(server, folders)
    connection = await connect(parse(server.url(user=user)), user, answer_s=120)
    try:
        text = b"It came while you were moving.\r\n" * 20_000
        await _append(connection, b"INBOX", rng, [_message(rng, text, 90_000_000 + n) for n in range(NEW)])
        for name in names[:10]:
            await connection.run(b"SELECT ", MailboxName(name))
            deleted = DELETED // min(10, len(names))
            await connection.run(b"UID STORE 1:%d +FLAGS.SILENT (\\Deleted)" % deleted)
            await connection.run(b"UID EXPUNGE 1:%d" % deleted)  # and no other that the user marked
            some = REFLAGGED // min(10, len(names))
            await connection.run(b"UID STORE %d:%d +FLAGS.SILENT (\\Flagged later)" % (deleted + 1, deleted + some))
    finally:
        await connection.aclose()


async def rename(server: Dovecot, user: str, folders: int) -> tuple[bytes, bytes]:
    """A folder is called otherwise: (as it was, as it is)."""
    name = folder_names(server, folders)[2]
    connection = await connect(parse(server.url(user=user)), user, answer_s=120)
    try:
        await connection.run(b"RENAME ", MailboxName(name), b" ", MailboxName(name + b" renamed"))
        await connection.run(b"UNSUBSCRIBE ", MailboxName(name))
        await connection.run(b"SUBSCRIBE ", MailboxName(name + b" renamed"))
    finally:
        await connection.aclose()
    return name, name + b" renamed"


def clone(server: Dovecot, user: str) -> None:
    """The source's mailbox once more, for one run of one tool."""
    shutil.copytree(server.home(USER), server.home(user))
    for path in [server.home(user), *server.home(user).rglob("*")]:
        os.chown(path, 5000, 5000)
