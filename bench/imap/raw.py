"""What the two servers can do at all: FETCH of every body into MULTIAPPEND, overlapped, and nothing else.

    python -m bench.imap.raw SOURCE_URL TARGET_URL USER CONNECTIONS

Half as many connections read and as many write, folders shared out among them. Prints seconds and µs of CPU, of the
copying alone. No flags, dates, mirror or ledger.
"""

import sys
import time
from functools import partial

import trio

from moverq.endpoints.imap.connection import Connection, MailboxName, Piece, Refused, Selection
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.reading import Reading
from moverq.endpoints.imap.settings import parse
from moverq.endpoints.imap.wire import Response

PAGE, BATCH = 200, 50
Page = tuple[bytes, list[bytes]]


async def main(source_url: str, target_url: str, user: str, connections: int) -> None:
    sources = [await connect(parse(source_url), user, answer_s=120) for _ in range(max(1, connections // 2))]
    targets = [await connect(parse(target_url), user, answer_s=120) for _ in range(connections)]
    begun, cpu = time.perf_counter(), time.process_time()
    names = await _names(sources[0])
    made: set[bytes] = {b"INBOX"}
    for name in names:
        if name not in made:
            await targets[0].run(b"CREATE ", MailboxName(name))
    channels = [trio.open_memory_channel[Page](2) for _ in targets]
    # In the nursery: who reads, and who writes what was read.
    async with trio.open_nursery() as nursery:
        for at, source in enumerate(sources):
            mine = list(enumerate(names))[at :: len(sources)]
            sends = [send.clone() for send, _ in channels]
            nursery.start_soon(_read, source, mine, sends)
        for (send, receive), target in zip(channels, targets, strict=True):
            send.close()
            nursery.start_soon(_write, target, receive)
    print(time.perf_counter() - begun, (time.process_time() - cpu) * 1e6)
    for one in (*sources, *targets):
        await one.aclose()


async def _names(connection: Connection) -> list[bytes]:
    found: list[bytes] = []

    def take(response: Response) -> None:
        if b"\\Noselect" not in response.head:
            found.append(response.head.split(b'" ', 1)[1].strip(b'"'))

    await connection.run(b'LIST "" "*"', take=take)
    return found


async def _read(
    connection: Connection, names: list[tuple[int, bytes]], sends: "list[trio.MemorySendChannel[Page]]"
) -> None:
    for at, name in names:
        found: list[int] = []
        examine = await connection.start(b"EXAMINE ", MailboxName(name))
        try:
            await connection.done(examine)
        except Refused:
            continue  # it only holds folders
        connection.selected = Selection(name, is_writable=False, command=examine)
        await connection.run(b"UID SEARCH ALL", take=partial(_note_found, found))
        pages = [found[begin : begin + PAGE] for begin in range(0, len(found), PAGE)]
        readings = [Reading(connection, page, validity=0) for page in pages]
        for number, reading in enumerate(readings):
            if not number:
                await reading.begin(name)
            if number + 1 < len(readings):
                await readings[number + 1].begin(name)
            await sends[at % len(sends)].send((name, list((await reading.end()).values())))
            reading.found = {}
    for send in sends:
        send.close()


def _note_found(found: list[int], response: Response) -> None:
    found.extend(map(int, response.head.split()[2:]))


async def _write(connection: Connection, receive: "trio.MemoryReceiveChannel[Page]") -> None:
    async for name, contents in receive:
        commands = []
        for at in range(0, len(contents), BATCH):
            pieces: list[Piece] = [b"APPEND ", MailboxName(name)]
            for content in contents[at : at + BATCH]:
                pieces += [b' () "01-Jan-2020 00:00:00 +0000" ', memoryview(content)]
            commands.append(await connection.start(*pieces))
        for command in commands:
            await connection.done(command)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
