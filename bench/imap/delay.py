"""A proxy that holds every byte back for half a round trip each way, without a bound on the rate.

    python -m bench.imap.delay PORT ROUND_TRIP_MS      prints the port it listens at, and serves until it is ended

A link of 0 ms goes through it too, so that a ratio of two links is of their delay alone.
"""

import sys
from collections import deque

import trio

CHUNK_BYTES = 256 << 10
HELD_BYTES = 32 << 20
"""On their way in one direction of one connection: 10 ms at 3 GB/s."""


async def main(port: int, round_trip_s: float) -> None:
    async def serve(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", port)
        # In the nursery: both directions, each until its end closes.
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(_carry, near, far, round_trip_s / 2)
            nursery.start_soon(_carry, far, near, round_trip_s / 2)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(serve, [listener])


async def _carry(here: trio.SocketStream, there: trio.SocketStream, delay_s: float) -> None:
    held: deque[tuple[float, bytes]] = deque()
    changed = trio.Event()
    bytes_held = 0
    ended = False

    async def send() -> None:
        nonlocal changed, bytes_held
        while held or not ended:
            if not held:
                await changed.wait()
                changed = trio.Event()
                continue
            due, data = held[0]
            await trio.sleep_until(due)
            await there.send_all(data)
            held.popleft()
            bytes_held -= len(data)
        await there.send_eof()

    try:
        # In the nursery: the sender, until everything that came has been sent.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while data := await here.receive_some(CHUNK_BYTES):
                held.append((trio.current_time() + delay_s, data))
                bytes_held += len(data)
                changed.set()
                while bytes_held > HELD_BYTES:  # noqa: ASYNC110 (rarely, and the sender gets on meanwhile)
                    await trio.sleep(0.001)
            ended = True
            changed.set()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(here)
        await trio.aclose_forcefully(there)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), float(sys.argv[2]) / 1000)
