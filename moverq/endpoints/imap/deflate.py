"""COMPRESS=DEFLATE (RFC 4978): a stream whose bytes are deflated on the way, each way by one dictionary to the end.

For a slow line between the servers: text shrinks to a third, at some 20 ms of CPU a MiB each way. Not asked for unless
the URL says so, because on a fast line the CPU is what is scarce.
"""

import zlib
from typing import Final

import attrs
import trio

RAW: Final = -15
"""zlib's word for a stream without zlib's header."""
INFLATED_BYTES_MAX: Final = 1 << 20
"""Given out at a time, however little they were on the way."""


@attrs.define(eq=False)
class DeflateStream(trio.abc.Stream):
    """Over `inner`, which it owns. What was sent is flushed, so that the other side can read it."""

    inner: trio.abc.Stream
    _deflater: "zlib._Compress" = attrs.field(factory=lambda: zlib.compressobj(wbits=RAW))
    _inflater: "zlib._Decompress" = attrs.field(factory=lambda: zlib.decompressobj(wbits=RAW))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(self._deflater.compress(data) + self._deflater.flush(zlib.Z_SYNC_FLUSH))

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Raises `trio.BrokenResourceError` where what comes was never deflated. Cancelled: nothing was taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            held = self._inflater.unconsumed_tail
            data = held or await self.inner.receive_some(max_bytes)
            if not data:
                return b""
            try:
                inflated = self._inflater.decompress(data, INFLATED_BYTES_MAX)
            except zlib.error as error:
                raise trio.BrokenResourceError("what came was not deflated") from error
            if inflated:
                if held:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return inflated

    async def aclose(self) -> None:
        await self.inner.aclose()
