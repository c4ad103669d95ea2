"""TLS over a stream, for bytes by the megabyte.

trio's own hands out one TLS record (16 KiB) a call, each with its locks and checkpoints, which costs nearly as much as
the cipher: 29 µs for 24 kB, against 17. Here one receive from the socket is decrypted whole, and what is sent is
encrypted whole. It is enough for a connection that one task uses at a time.

What always holds: the context verifies certificate and host name (`login`); no renegotiation, so writing never waits
for reading.
"""

import ssl
from typing import Any, Final

import trio

RECEIVE_BYTES: Final = 256 << 10
SEND_BYTES: Final = 128 << 10


class TlsStream(trio.abc.Stream):
    """See the module. `handshake` first."""

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_hostname: str) -> None:
        context.options |= ssl.OP_NO_RENEGOTIATION
        self._transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._encrypted = memoryview(bytearray(RECEIVE_BYTES))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    async def handshake(self) -> None:
        """Both sides know each other. Raises `ssl.SSLError`, `trio.BrokenResourceError`."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._take_in():
                    raise trio.BrokenResourceError("the connection ended in the handshake") from None
            except ssl.SSLError:
                await self._flush()  # the alert that says why
                raise
            else:
                await self._flush()
                return

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """All of it is in the transport's hands."""
        with memoryview(data) as view:
            for begin in range(0, len(view), SEND_BYTES):
                try:
                    self._tls.write(view[begin : begin + SEND_BYTES])  # all of it: there is always room in memory
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError(str(error)) from error
                await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, `max_bytes` at most; b"": the other side has ended, with or without a word."""
        room = bytearray(max_bytes or RECEIVE_BYTES)
        return bytes(memoryview(room)[: await self.receive_into(memoryview(room))])

    async def receive_into(self, room: memoryview) -> int:
        """The same, decrypted to where it is read; 0 is the end. Cancelled: nothing was taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            filled = 0
            try:
                while filled < len(room):
                    size: Any = self._tls.read(len(room) - filled, room[filled:])  # a number, with a buffer
                    if not size:
                        return filled
                    filled += size
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return filled
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(str(error)) from error
            if filled:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return filled
            await self._flush()  # a key update is answered
            if not await self._take_in():
                return 0

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _take_in(self) -> bool:
        if isinstance(self._transport, trio.SocketStream):
            try:
                size = await self._transport.socket.recv_into(self._encrypted)
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            self._incoming.write(self._encrypted[:size])
            return size > 0
        data = await self._transport.receive_some(RECEIVE_BYTES)
        self._incoming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._transport.send_all(self._outgoing.read())
        else:
            await trio.lowlevel.checkpoint()
