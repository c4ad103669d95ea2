"""Our TLS over a stream, against trio's: the same bytes both ways, whatever their size, and an end that is seen."""

import random
import ssl
from collections.abc import Callable

import pytest
import trio
import trio.testing
import trustme

from moverq.endpoints.imap.tls import TlsStream

SIZES = (1, 16_384, 16_385, 1 << 20, 3_000_001)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def contexts(authority: trustme.CA, version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ours, theirs = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(ours)
    authority.issue_cert("mail.example.org").configure_cert(theirs)
    theirs.maximum_version = version
    return ours, theirs


async def acquainted(
    authority: trustme.CA, *, https_compatible: bool = False
) -> tuple[TlsStream, trio.SSLStream[trio.abc.Stream], trio.abc.Stream]:
    """Ours, trio's at the other side, and what that one sits on, after the handshake."""
    ours, theirs = contexts(authority, ssl.TLSVersion.TLSv1_3)
    near, far = trio.testing.memory_stream_pair()
    server = trio.SSLStream(far, theirs, server_side=True, https_compatible=https_compatible)
    client = TlsStream(near, ours, server_hostname="mail.example.org")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        await server.do_handshake()
    return client, server, far


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


@pytest.mark.parametrize("pair", [trio.testing.lockstep_stream_pair, socket_pair], ids=["lockstep", "sockets"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_is_sent_arrives_both_ways(
    authority: trustme.CA, version: ssl.TLSVersion, pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]
) -> None:
    ours, theirs = contexts(authority, version)
    near, far = pair()
    server = trio.SSLStream(far, theirs, server_side=True)
    client = TlsStream(near, ours, server_hostname="mail.example.org")
    sent = [random.Random(size).randbytes(size) for size in SIZES]

    async def echo() -> None:
        try:
            while data := await server.receive_some():
                await server.send_all(data)
        except trio.BrokenResourceError:
            pass  # the client went without a word, as it does

    # In the nursery: the server, which ends when the client does.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        await client.handshake()
        for data in sent:
            came = bytearray()
            async with trio.open_nursery() as both:
                both.start_soon(client.send_all, data)
                while len(came) < len(data):
                    came += await client.receive_some(100_000)
            assert came == data
        await client.aclose()
    await far.aclose()


@pytest.mark.parametrize("politely", [True, False])
async def test_an_end_is_an_end_with_or_without_a_word(authority: trustme.CA, politely: bool) -> None:
    client, server, far = await acquainted(authority, https_compatible=not politely)

    async def speak_and_go() -> None:
        await server.send_all(b"* BYE\r\n")
        await (server.aclose() if politely else far.aclose())

    # In the nursery: the server's last words.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak_and_go)
        came = b""
        while data := await client.receive_some():
            came += data
        assert came == b"* BYE\r\n"
        assert await client.receive_some() == b""
        await client.aclose()


async def test_who_is_cancelled_has_lost_nothing(authority: trustme.CA) -> None:
    """As when the watch's time is over in the moment that the server speaks; the connection is used on."""
    client, server, far = await acquainted(authority)
    await server.send_all(b"* 4 EXISTS\r\n")
    came = await client.receive_some(3)
    while len(came) < 12:
        with trio.CancelScope() as scope:
            scope.cancel()
            came += await client.receive_some(3)
        came += await client.receive_some(3)
    assert came == b"* 4 EXISTS\r\n"
    await client.aclose()
    await far.aclose()


async def test_damaged_bytes_break_the_connection_and_are_never_handed_out(authority: trustme.CA) -> None:
    client, _, far = await acquainted(authority)
    await far.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


@pytest.mark.parametrize(("host", "trusted"), [("other.example.org", True), ("mail.example.org", False)])
async def test_another_name_or_an_unknown_authority_is_refused(authority: trustme.CA, host: str, trusted: bool) -> None:
    ours, theirs = contexts(authority, ssl.TLSVersion.TLSv1_3)
    near, far = trio.testing.memory_stream_pair()
    server = trio.SSLStream(far, theirs, server_side=True)
    client = TlsStream(near, ours if trusted else ssl.create_default_context(), server_hostname=host)

    async def accept() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await server.do_handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.handshake()
