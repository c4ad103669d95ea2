"""A TCP proxy that loses things as networks do: it can hold connections still, cut them, or lose one answer.

async with open_proxy(port, is_write=…) as proxy: connect to proxy.port
proxy.lose_answer()      the next write reaches the server, and the connection breaks before its answer is passed on
proxy.cut()              every connection breaks now
proxy.still = True       bytes are taken, and not passed on
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import trio


@attrs.define(eq=False)
class TcpProxy:
    """In front of one server on loopback."""

    server_port: int
    is_write: Callable[[bytes], bool]
    port: int = 0
    still: bool = False
    connections: int = 0
    """Made so far."""
    losing: int | None = None
    """Writes that still pass before the one whose answer is lost; None: none is."""
    _scopes: set[trio.CancelScope] = attrs.field(factory=set)

    def lose_answer(self, *, skip: int = 0) -> None:
        self.losing = skip

    def cut(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    async def serve(self, client: trio.SocketStream) -> None:
        self.connections += 1
        doomed = False

        async def requests() -> None:
            nonlocal doomed
            with suppress(trio.BrokenResourceError):
                async for data in client:
                    await self._unless_still()
                    if self.losing is not None and self.is_write(bytes(data)):
                        doomed = self.losing == 0
                        self.losing = None if doomed else self.losing - 1
                    await server.send_all(data)
            scope.cancel()

        async def answers() -> None:
            with suppress(trio.BrokenResourceError):
                async for data in server:
                    await self._unless_still()
                    if doomed:
                        break
                    await client.send_all(data)
            scope.cancel()

        # In the nursery: one task each way; the first to end ends the other, and `cut` both.
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            server = await trio.open_tcp_stream("127.0.0.1", self.server_port)
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(requests)
                nursery.start_soon(answers)
        self._scopes.discard(scope)

    async def _unless_still(self) -> None:
        if self.still:
            await trio.sleep_forever()


@asynccontextmanager
async def open_proxy(server_port: int, *, is_write: Callable[[bytes], bool]) -> AsyncIterator[TcpProxy]:
    """Listening on a port of its own; every connection is cut at the end."""
    proxy = TcpProxy(server_port, is_write)
    # In the nursery: the listener, and its connections.
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1"))
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel()


def is_ldap_write(data: bytes) -> bool:
    """Is this an LDAP message that adds or modifies? (RFC 4511: SEQUENCE, message id, [APPLICATION 8] or [6])"""
    start = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    assert data[0] == 0x30
    assert data[start] == 0x02
    return data[start + 2 + data[start + 1]] in (0x66, 0x68)
