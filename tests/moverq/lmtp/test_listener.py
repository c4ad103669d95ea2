"""The listener on a real root, by the standard library's LMTP client: where it listens, what a lock does, its end."""

import smtplib
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import trio

from moverq.errors import EndpointBroken, RequestRefused
from moverq.limits import Limits
from moverq.lmtp.listener import LmtpListener, bind
from moverq.root import Root, init_root, open_root, without_extension
from tests.support.mail import lock_mailbox, messages_of, unlock_mailbox
from tests.support.tcp_proxy import open_proxy

ADA, BOB = "ada@example.org", "bob@example.org"
EVE = "eve@example.net"
MESSAGE = "Subject: hello\r\n\r\nhow are you?\r\n"
KEPT = b"Return-Path: <eve@example.net>\r\n" + MESSAGE.encode()


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Root]:
    await init_root(tmp_path / "root")
    async with open_root(tmp_path / "root", limits=Limits(lmtp_lock_wait_s=0, stop_deadline_s=0.2)) as root:
        await root.server_add("EX1", version="2010")
        for number in (1, 2):
            await root.database_add(f"DB{number}", server="EX1")
        await root.mailbox_add(ADA, database="DB1")
        await root.mailbox_add(BOB, database="DB2")
        yield root


def send(where: str, recipient: str, message: str = MESSAGE) -> tuple[int, bytes]:
    """What one recipient of one message is answered, by a client that is not ours."""
    place = where.removeprefix("unix:")
    host, _, port = place.rpartition(":")
    address = {"host": place} if place.startswith("/") else {"host": host.strip("[]"), "port": int(port)}
    with smtplib.LMTP(**address, local_hostname="mta") as client:  # type: ignore[arg-type]
        client.ehlo_or_helo_if_needed()
        assert client.mail(EVE, ["BODY=8BITMIME", f"SIZE={len(message)}"])[0] == 250
        code, said = client.rcpt(recipient)
        return client.data(message) if code == 250 else (code, said)


async def sent(listener: LmtpListener, recipient: str, message: str = MESSAGE) -> tuple[int, bytes]:
    return await trio.to_thread.run_sync(send, listener.address, recipient, message)


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix:{}/lmtp"])
async def test_a_delivery_is_in_the_inbox_when_it_is_answered(root: Root, tmp_path: Path, where: str) -> None:
    async with root.lmtp(where.format(tmp_path)) as listener:
        code, said = await sent(listener, ADA)
        assert (code, said) == (250, b"2.1.5 <ada@example.org> delivered")
        assert await messages_of(root, ADA) == [KEPT]


async def test_the_same_bytes_arrive_once_also_by_an_alias_and_after_a_move(root: Root) -> None:
    await root.alias_add(ADA, "lovelace@example.org")
    async with root.lmtp("127.0.0.1:0") as listener:
        assert (await sent(listener, ADA))[1].endswith(b"delivered")
        assert (await sent(listener, "Lovelace@Example.org"))[1].endswith(b"delivered before")
        await root.wait(await root.move(ADA, to="DB2"))
        assert (await sent(listener, ADA))[1].endswith(b"delivered before")
        assert (await sent(listener, ADA, MESSAGE + "again\r\n"))[1].endswith(b"delivered")
    assert len(await messages_of(root, ADA)) == 2


async def test_a_client_that_did_not_hear_the_answer_sends_again_and_the_message_is_there_once(root: Root) -> None:
    async with (
        root.lmtp("127.0.0.1:0") as listener,
        open_proxy(
            int(listener.address.rpartition(":")[2]), is_write=lambda data: data.endswith(b"\r\n.\r\n")
        ) as proxy,
    ):
        proxy.lose_answer()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            await trio.to_thread.run_sync(send, f"127.0.0.1:{proxy.port}", ADA)
        assert await messages_of(root, ADA) == [KEPT]
        assert await trio.to_thread.run_sync(send, f"127.0.0.1:{proxy.port}", ADA) == (
            250,
            b"2.1.5 <ada@example.org> delivered before",
        )
        assert await messages_of(root, ADA) == [KEPT]


async def test_nobody_and_a_full_mailbox_are_told_for_good(root: Root) -> None:
    await root.mailbox_set(BOB, "quota_bytes", 10)
    async with root.lmtp("127.0.0.1:0") as listener:
        assert (await sent(listener, "nobody@example.org"))[0] == 550
        code, said = await sent(listener, BOB)
    assert (code, said[:5]) == (552, b"5.2.2")


async def test_mail_for_a_mailbox_that_a_mail_system_serves_now_stays_with_the_mta(root: Root, tmp_path: Path) -> None:
    """Its route is the MTA's to be told, and the message is not at fault."""
    await root.wait(await root.move(ADA, to=f"maildir:{tmp_path}/%u"))
    async with root.lmtp("127.0.0.1:0") as listener:
        code, said = await sent(listener, ADA)
    assert (code, said[:5]) == (451, b"4.3.0")
    assert b"is a place of Maildirs" in said
    done = await trio.run_process(
        [sys.executable, "-m", "moverq", "deliver", ADA, "--root", str(root.path)],
        stdin=MESSAGE.encode(), capture_stderr=True, check=False,
    )  # fmt: skip
    assert done.returncode == 75


async def test_a_mailbox_whose_database_is_gone_keeps_its_mail_at_the_mta(root: Root) -> None:
    await trio.Path(root.path / "databases" / "DB2").rename(root.path / "gone")
    async with root.lmtp("127.0.0.1:0") as listener:
        assert (await sent(listener, BOB))[0] == 451
        assert (await sent(listener, ADA))[0] == 250


async def test_a_locked_mailbox_defers_its_own_mail_alone(root: Root) -> None:
    token = await lock_mailbox(root, ADA)
    async with root.lmtp("127.0.0.1:0") as listener:
        assert (await sent(listener, ADA))[1].startswith(b"4.2.1")
        assert (await sent(listener, BOB))[0] == 250
        await unlock_mailbox(root, ADA, token)
        assert (await sent(listener, ADA))[0] == 250
    assert await messages_of(root, ADA) == [KEPT]


async def test_a_short_lock_is_waited_out(root: Root) -> None:
    root.limits = attrs.evolve(root.limits, lmtp_lock_wait_s=30)
    token = await lock_mailbox(root, ADA)
    async with root.lmtp("127.0.0.1:0") as listener, trio.open_nursery() as nursery:
        answers: list[tuple[int, bytes]] = []

        async def deliver() -> None:
            answers.append(await sent(listener, ADA))

        nursery.start_soon(deliver)
        await trio.sleep(0.2)
        assert answers == []
        await unlock_mailbox(root, ADA, token)
    assert [code for code, _ in answers] == [250]


async def test_the_extension_of_an_address_is_taken_off_where_the_site_says_so(root: Root) -> None:
    await root.alias_add(BOB, "ada+own@example.org")
    async with root.lmtp("127.0.0.1:0", recipient_delimiter="+") as listener:
        assert (await sent(listener, "ada+lists@example.org"))[0] == 250
        assert (await sent(listener, "ada+own@example.org"))[0] == 250
        assert (await sent(listener, "+ada@example.org"))[0] == 550
    async with root.lmtp("127.0.0.1:0") as listener:
        assert (await sent(listener, "ada+lists@example.org"))[0] == 550
    assert [len(await messages_of(root, one)) for one in (ADA, BOB)] == [1, 1]


@pytest.mark.parametrize(
    ("address", "plain"), [("a+b+c@x", "a@x"), ("a@x+y", None), ("+a@x", None), ("a@x", None), ("a+@x", "a@x")]
)
def test_an_extension_begins_at_the_first_delimiter(address: str, plain: str | None) -> None:
    assert without_extension(address, "+") == plain


def test_of_several_delimiters_each_is_one_as_in_postfix() -> None:
    assert without_extension("ada-lists+x@example.org", "+-") == "ada@example.org"
    assert without_extension("ada+lists-x@example.org", "+-") == "ada@example.org"
    assert without_extension("-ada@example.org", "+-") is None


@pytest.mark.parametrize("where", ["0.0.0.0:2424", "[::]:2424", "192.0.2.1:2424", "mail.example.org:24", "2424", "::1"])
async def test_what_others_could_reach_is_refused(root: Root, where: str) -> None:
    with pytest.raises(RequestRefused):
        async with root.lmtp(where):
            pass


async def test_where_somebody_listens_nobody_else_does(root: Root, tmp_path: Path) -> None:
    for where in ("127.0.0.1:0", f"unix:{tmp_path}/lmtp"):
        async with root.lmtp(where) as listener:
            with pytest.raises(RequestRefused, match="listens at"):
                bind(listener.address)
            assert (await sent(listener, ADA))[0] == 250
    with pytest.raises(EndpointBroken, match="No such file"):
        bind(f"unix:{tmp_path}/missing/lmtp")
    (tmp_path / "file").touch()
    with pytest.raises(RequestRefused, match="is no socket"):
        bind(f"unix:{tmp_path}/file")


async def test_a_socket_left_by_a_killed_listener_is_taken_over_and_has_its_mode(root: Root, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with root.lmtp(f"unix:{path}", socket_mode=0o600) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await sent(listener, ADA))[0] == 250
    assert not path.exists()


async def test_too_many_connections_are_sent_away_and_the_others_stay(root: Root) -> None:
    root.limits = attrs.evolve(root.limits, lmtp_connections_max=2)
    async with root.lmtp("127.0.0.1:0") as listener:
        port = int(listener.address.rpartition(":")[2])
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        heard = [bytes(await stream.receive_some())[:3] for stream in streams]
        assert heard == [b"220", b"220", b"421"]
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(10):
            while listener._sessions:  # noqa: ASYNC110 (the other side of a socket)
                await trio.sleep(0.01)
        assert (await sent(listener, ADA))[0] == 250


async def test_leaving_ends_idle_clients_at_once_and_stuck_ones_after_the_deadline(root: Root) -> None:
    async with root.lmtp("127.0.0.1:0") as listener:
        port = int(listener.address.rpartition(":")[2])
        idle, stuck = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        await stuck.send_all(b"LHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<ada@example.org>\r\nDATA\r\n")
        said = b""
        while b"354" not in said:
            said += bytes(await stuck.receive_some())
        started = trio.current_time()
    assert 0.1 < trio.current_time() - started < 5
    async with idle, stuck:
        assert b"421 4.3.2" in b"".join([bytes(part) async for part in idle])
        assert b"".join([bytes(part) async for part in stuck]) == b""
    assert await messages_of(root, ADA) == []
