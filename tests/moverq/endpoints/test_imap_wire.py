"""The stream of a server, cut into responses wherever it was cut on its way, and the one to it; and a listing read in
two ways."""

import random
import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from moverq.endpoints.imap.connection import send_pieces
from moverq.endpoints.imap.listing import _Opened, seen_in
from moverq.endpoints.imap.wire import ROOM_BYTES, ROOM_BYTES_MIN, Incoming, Response, uid_sets, uids_in
from moverq.endpoints.mirrored.learned import Seen
from moverq.endpoints.mirrored.listed import Wanted
from moverq.model.ids import FolderId


def said_in(
    stream: bytes, rng: random.Random, *, piece_max: int, incoming: Incoming | None = None, is_fed: bool = False
) -> list[Response]:
    incoming = Incoming() if incoming is None else incoming
    found: list[Response] = []
    at = 0
    while at < len(stream):
        size = min(rng.randint(1, piece_max), len(stream) - at)
        if is_fed:  # as TLS does
            incoming.feed(stream[at : at + size])
        else:
            with incoming.room() as room:  # as a socket fills it
                size = min(len(room), size)
                room[:size] = stream[at : at + size]
            incoming.came(size)
        at += size
        while (response := incoming.next()) is not None:
            found.append(response)
    return found


@pytest.mark.parametrize("is_fed", [False, True], ids=["received", "fed"])
@pytest.mark.parametrize("piece_max", [3, 1000, 1 << 20])
def test_responses_are_the_same_however_the_stream_is_cut(piece_max: int, is_fed: bool) -> None:
    rng = random.Random(piece_max)
    sizes = [0, 1, 70, 3000] if piece_max == 3 else [0, 900, ROOM_BYTES - 5, ROOM_BYTES, 3 * ROOM_BYTES, 5, 80_000]
    if piece_max > 3:  # much more than the buffer has, most of it small: what a TLS connection brings at once
        sizes += [rng.choice((0, 5, 12_000, 60_000)) for _ in range(200)]
    sent: list[tuple[bytes, ...]] = []
    for number, size in enumerate(sizes):
        sent.append((b"* %d FETCH (UID %d BODY[] " % (number, number), rng.randbytes(size), b")"))
        sent.append((b"M%d OK done" % number,))
    wire = b"".join(
        parts[0] + b"{%d}\r\n" % len(parts[1]) + parts[1] + parts[2] + b"\r\n" if len(parts) > 1 else parts[0] + b"\r\n"
        for parts in sent
    )
    incoming = Incoming()
    assert [one.parts for one in said_in(wire, rng, piece_max=piece_max, incoming=incoming, is_fed=is_fed)] == sent
    assert incoming.is_between_responses


@given(st.sets(st.integers(1, 1 << 32), max_size=60), st.integers(25, 100))
def test_the_sets_of_many_uids_are_short_and_name_each_once(uids: set[int], bytes_max: int) -> None:
    sets = list(uid_sets(uids, bytes_max=bytes_max))
    assert max(map(len, sets), default=0) <= bytes_max
    assert [uid for some in sets for uid in uids_in(some)] == sorted(uids)


def test_room_for_something_large_is_given_back() -> None:
    incoming = Incoming()
    size = 5 * ROOM_BYTES
    said_in(b"* 1 FETCH (BODY[] {%d}\r\n" % size + bytes(size) + b")\r\n", random.Random(1), piece_max=1 << 20)
    incoming.feed(b"* 1 FETCH (BODY[] {%d}\r\n" % size + bytes(size) + b")\r\n")
    assert incoming.next() is not None
    with incoming.room() as room:
        assert len(room) == ROOM_BYTES


def test_room_is_small_until_more_comes_than_it_has_and_small_again_at_rest() -> None:
    """A worker has hundreds of connections that only wait."""
    incoming = Incoming()
    assert len(incoming.room()) == ROOM_BYTES_MIN
    mail = b"* 1 FETCH (BODY[] {%d}\r\n" % 20_000 + bytes(20_000) + b")\r\n"
    assert len(said_in(mail * 200, random.Random(2), piece_max=1 << 20, incoming=incoming)) == 200
    with incoming.room() as room:
        assert len(room) == ROOM_BYTES
    incoming.feed(mail[:100])
    incoming.shrink()
    incoming.feed(mail[100:])
    assert incoming.next() is not None
    incoming.shrink()
    with incoming.room() as room:
        assert len(room) == ROOM_BYTES_MIN
    assert len(said_in(mail * 2, random.Random(3), piece_max=1 << 20, incoming=incoming)) == 2


LINES = (
    b'* 1 FETCH (UID 7 FLAGS (\\Seen work) INTERNALDATE "01-Feb-2024 10:20:30 +0100" RFC822.SIZE 42)',
    b'* 2 FETCH (UID 8 FLAGS () INTERNALDATE " 1-Feb-2024 23:59:59 -0800" RFC822.SIZE 42 MODSEQ (12))',
    b'* 3 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE "01-feb-2024 10:20:30 +0100" RFC822.SIZE 42)',
    b'* 4 FETCH (FLAGS (\\Seen) UID 10 INTERNALDATE "01-Feb-2024 10:20:30 +0100" RFC822.SIZE 42)',
    b'* 5 FETCH (UID 11 FLAGS (a<b>c) INTERNALDATE "31-Dec-1969 23:59:59 +0000" RFC822.SIZE 0)',
    b'* 6 FETCH (UID 12 FLAGS (\\Seen) INTERNALDATE "01-Foo-2024 10:20:30 +0100" RFC822.SIZE 42)',
    b'* 7 FETCH (UID 13 FLAGS (\\Seen) INTERNALDATE "01-Feb-2024 10:20:30" RFC822.SIZE 42)',
    b"* 9 EXISTS",
    b"* 5 FETCH (FLAGS (\\Seen))",
)


def test_a_listing_tells_the_same_read_together_and_one_by_one() -> None:
    rng = random.Random(7)
    for _ in range(200):
        lines = rng.choices(LINES, weights=[9, 9, 1, 1, 3, 1, 1, 1, 1], k=rng.randint(0, 12))
        wire = b"".join(line + b"\r\n" for line in lines)
        one_by_one: dict[int, Seen] = {}
        for line in lines:
            seen = seen_in(Response((line,)))
            if seen is not None:
                one_by_one[seen.uid] = seen
        wanted = Wanted(folder_id=FolderId(b""), wire=b"INBOX", modseq=0)
        looking = _Opened(wanted, whole=True)
        incoming = Incoming()
        at = 0
        while at < len(wire):
            piece = wire[at : at + rng.randint(1, 300)]
            incoming.feed(piece)
            at += len(piece)
            while True:
                incoming.skim(looking.usual_fetch)
                response = incoming.next()
                if response is None:
                    break
                looking.take_fetch(response)
        assert looking.seen == one_by_one


@pytest.mark.parametrize("room", [1, 100_000, 1 << 20])
async def test_what_is_sent_in_pieces_arrives_whole_and_in_order(room: int) -> None:
    """More pieces than one call takes, empty ones too, through a socket that takes a part of one, or many."""
    rng = random.Random(room)
    sizes = [rng.choice((0, 1, 40, 3000)) for _ in range(2500)] + [0, 500_000, 0]
    pieces = [rng.randbytes(size) for size in sizes]
    here, there = (trio.socket.from_stdlib_socket(one) for one in socket.socketpair())
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    came = bytearray()

    async def receive() -> None:
        while data := await there.recv(rng.choice((10, 70_000))):
            came.extend(data)

    with here, there:
        async with trio.open_nursery() as nursery:  # who receives, to the end
            nursery.start_soon(receive)
            await send_pieces(here, [memoryview(one) if rng.random() < 0.5 else one for one in pieces])
            await send_pieces(here, [])
            here.shutdown(socket.SHUT_WR)
    assert came == b"".join(pieces)
