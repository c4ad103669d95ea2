"""What some servers offer and some sites need, on real ones: other logins, compression, being told of changes."""

import base64
import hashlib
import hmac
import imaplib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
import trio
import trio.testing

from moverq.endpoints.base import FolderStep, StepKind
from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.deflate import DeflateStream
from moverq.endpoints.imap.endpoint import open_endpoint
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.reading import read_bodies
from moverq.endpoints.imap.sasl import dialogue
from moverq.endpoints.imap.settings import parse
from moverq.endpoints.mirrored.normal_form import content_hash
from moverq.errors import EndpointBroken, RequestRefused
from moverq.model.change import FolderState, ItemContent, ItemState
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.cyrus import Cyrus, start_cyrus
from tests.support.dovecot import Dovecot, start_dovecot
from tests.support.fake_imap import RICH, FakeImap, Quirk, open_fake
from tests.support.imap_place import PASSWORD
from tests.support.imap_servers import SERVERS, ImapServer

slow = pytest.mark.slow

EXTENDED = """
mailbox_list_index = yes
auth_mechanisms = plain login scram-sha-1 scram-sha-256 xoauth2 oauthbearer
mail_plugins = $mail_plugins zlib
protocol imap {
  mail_plugins = $mail_plugins imap_zlib
}
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}
"""
TOKENS = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
"""
KEY = b"the key of those who make tokens"


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    # Not in pytest's folder: the next session that starts beside this one closes that to everybody but root.
    folder = Path(tempfile.mkdtemp(prefix="moverq-dovecot-"))
    folder.chmod(0o755)
    (folder / "oauth2.conf").write_text(TOKENS.replace("{folder}", str(folder)))
    (folder / "keys" / "default" / "HS256").mkdir(parents=True)
    (folder / "keys" / "default" / "HS256" / "default").write_bytes(base64.b64encode(KEY))
    server = start_dovecot("mdbox", name="extended", folder=folder, more=EXTENDED)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cyrus() -> Iterator[Cyrus]:
    server = start_cyrus(mechanisms="SCRAM-SHA-256 SCRAM-SHA-1 PLAIN")
    server.add_login("ada", PASSWORD)
    yield server
    server.stop()


def token(user: str) -> str:
    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = part(json.dumps({"sub": user, "iat": 1_700_000_000, "exp": 4_000_000_000}).encode())
    signature = part(hmac.new(KEY, head + b"." + body, hashlib.sha256).digest())
    return (head + b"." + body + b"." + signature).decode()


async def address_of(mailbox_id: MailboxId) -> str:
    return "ada@example.org"


@asynccontextmanager
async def logged_in(url: str, user: str) -> AsyncIterator[Connection]:
    connection = await connect(parse(url), user, answer_s=20)
    try:
        yield connection
    finally:
        await connection.aclose()


# ---- logins


@slow
@pytest.mark.parametrize("auth", ["scram-sha-1", "scram-sha-256"])
@pytest.mark.parametrize("kind", ["dovecot", "cyrus"])
async def test_scram_proves_both_sides(
    kind: str, auth: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = request.getfixturevalue(kind)
    monkeypatch.setenv("ADAS", PASSWORD)
    monkeypatch.setenv("WRONG", "guessed in vain")
    url = f"imap://127.0.0.1:{server.port}/?tls=none&auth={auth}&password-env="
    async with logged_in(url + "ADAS", "ada") as connection:
        assert connection.has(b"UIDPLUS")
    with pytest.raises(EndpointBroken, match="login is refused"):
        async with logged_in(url + "WRONG", "ada"):
            pass


async def test_scram_of_an_administrator_for_a_user_is_refused_in_words() -> None:
    with pytest.raises(RequestRefused, match="login-as="):
        dialogue("scram-sha-256", name="admin", acts_for="ada", secret="x", endpoint="host")


def test_a_server_that_does_not_know_the_password_is_not_believed() -> None:
    talk = dialogue("scram-sha-256", name="ada", acts_for="", secret="x", endpoint="host")
    first = talk.first()
    assert first.startswith(b"n,,n=ada,r=")
    nonce = first.rpartition(b"r=")[2]
    assert talk.answer(b"r=" + nonce + b"more,s=c2FsdCBvZiBhIGdvb2Qgc2l6ZQ==,i=4096")
    with pytest.raises(EndpointBroken, match="did not prove"):
        talk.check_over()
    with pytest.raises(EndpointBroken, match="side of the login is wrong"):
        talk.answer(b"v=" + base64.b64encode(b"x" * 32))


@slow
@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer"])
async def test_a_token_logs_in(dovecot: Dovecot, auth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", token("ada"))
    url = f"imap://127.0.0.1:{dovecot.port}/?tls=none&auth={auth}&password-env=TOKEN"
    async with logged_in(url, "ada") as connection:
        assert connection.has(b"UIDPLUS")
    monkeypatch.setenv("TOKEN", token("ada")[:-4] + "AAAA")
    with pytest.raises(EndpointBroken, match="login is refused"):
        async with logged_in(url, "ada"):
            pass


# ---- compression


@slow
@pytest.mark.parametrize("kind", ["dovecot", "cyrus"])
async def test_a_compressed_connection_carries_the_same_bytes(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    user = uuid4().hex
    random = Random(1)
    contents = [
        b"Subject: %d\r\n\r\n" % n + b"".join(b"%x\r\n" % random.randrange(16) for _ in range(50_000)) for n in range(4)
    ]
    client = server.login(user)
    for content in contents:
        assert client.append("INBOX", None, None, content)[0] == "OK"  # type: ignore[arg-type]
    client.select("INBOX", readonly=True)
    validity = int(client.response("UIDVALIDITY")[1][0])
    client.shutdown()
    counted = {}
    for compress in ("yes", "no"):
        async with logged_in(server.url(compress=compress), user) as connection:
            assert isinstance(connection.stream, DeflateStream) is (compress == "yes")
            wire = connection.stream.inner if isinstance(connection.stream, DeflateStream) else connection.stream
            counter = Counting(wire)
            if isinstance(connection.stream, DeflateStream):
                connection.stream.inner = counter
            else:
                connection.stream = counter
            read = await read_bodies(connection, b"INBOX", [1, 2, 3, 4], validity=validity)
            assert [read[uid] for uid in sorted(read)] == contents
            counted[compress] = counter.bytes_in
    assert counted["yes"] < counted["no"] / 3


class Counting(trio.abc.Stream):
    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.bytes_in = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self.inner.receive_some(max_bytes))
        self.bytes_in += len(data)
        return data

    async def aclose(self) -> None:
        await self.inner.aclose()


async def test_what_is_much_once_inflated_comes_in_bounded_pieces() -> None:
    here, there = trio.testing.memory_stream_pair()
    sender, receiver = DeflateStream(here), DeflateStream(there)
    content = b"\0" * (5 << 20)
    async with trio.open_nursery() as nursery:  # the sender, until all is sent
        nursery.start_soon(partial(sender.send_all, content))
        got = 0
        while got < len(content):
            with trio.CancelScope() as scope:  # who is cancelled has lost nothing
                scope.cancel()
                got += len(await receiver.receive_some())
            piece = await receiver.receive_some()
            assert 0 < len(piece) <= 1 << 20
            got += len(piece)
    assert got == len(content)
    await here.send_all(b"never deflated")
    with pytest.raises(trio.BrokenResourceError):
        await receiver.receive_some()


# ---- being told


async def waking(server: ImapServer, tmp_path: Path, act: Callable[[imaplib.IMAP4], object]) -> float:
    """After how many seconds a wait that looks once a minute heard of what a client did."""

    async def address_of(mailbox_id: MailboxId) -> str:
        return f"{mailbox_id.hex()}@example.com"

    async with open_endpoint("here", server.url(), mirrors=tmp_path, address_of=address_of, poll_s=60) as endpoint:
        mailbox_id, instance = MailboxId(new_id()), InstanceId(new_id())
        user = await address_of(mailbox_id)
        client = server.login(user)
        assert client.create("Archive")[0] == "OK"
        assert client.append("Archive", "", "", b"Subject: there\r\n\r\n")[0] == "OK"
        await endpoint.adopt(mailbox_id, instance, user)
        source = endpoint.source(instance)
        head = await source.head()
        done = trio.Event()

        async def wait() -> None:
            await source.wait_feed(head)
            done.set()

        try:
            async with trio.open_nursery() as nursery:  # the waiter, until it has been told
                nursery.start_soon(wait)
                watch = endpoint.mailbox(instance).session._watch
                with trio.fail_after(30):
                    while "armed" not in repr(watch):  # noqa: ASYNC110
                        await trio.sleep(0.01)
                    await trio.sleep(0.5)  # the look that comes after it
                assert not done.is_set()
                began = trio.current_time()
                await trio.to_thread.run_sync(act, client)
                with trio.fail_after(50):
                    await done.wait()
                return trio.current_time() - began
        finally:
            client.shutdown()


@slow
@pytest.mark.parametrize("kind", ["mdbox", "maildir", "cyrus"])
async def test_a_wait_hears_of_new_mail_at_once(kind: str, tmp_path: Path) -> None:
    def act(client: imaplib.IMAP4) -> None:
        assert client.append("INBOX", "", "", b"Subject: new\r\n\r\n")[0] == "OK"

    assert await waking(SERVERS[kind](), tmp_path, act) < 10


@slow
async def test_with_notify_a_wait_hears_of_every_folder(dovecot: Dovecot, tmp_path: Path) -> None:
    def act(client: imaplib.IMAP4) -> None:
        assert client.append("Archive", "", "", b"Subject: new\r\n\r\n")[0] == "OK"

    assert await waking(dovecot, tmp_path, act) < 10


async def test_a_server_that_tells_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")

    async with (
        open_fake(FakeImap()) as server,
        open_endpoint("fake", server.url, mirrors=tmp_path, address_of=address_of, poll_s=0.05) as endpoint,
    ):
        instance = InstanceId(new_id())
        await endpoint.adopt(MailboxId(new_id()), instance, "ada@example.org")
        source = endpoint.source(instance)
        head = await source.head()
        async with trio.open_nursery() as nursery:  # the waiter, until it has seen
            nursery.start_soon(source.wait_feed, head)
            await trio.sleep(0.1)
            server.add("INBOX", b"Subject: new\r\n\r\n")


async def test_a_server_that_ends_every_idle_is_looked_at_and_not_asked_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")

    def ends(command: bytes, answer: bytes) -> bytes:
        return b"+ idling\r\n* BYE not so long\r\n" if b" IDLE" in command.upper() else answer

    quirk = Quirk(answer=ends)
    async with (
        open_fake(FakeImap(f"{RICH} IDLE", quirk=quirk)) as server,
        open_endpoint("fake", server.url, mirrors=tmp_path, address_of=address_of, poll_s=0.02) as endpoint,
    ):
        instance = InstanceId(new_id())
        await endpoint.adopt(MailboxId(new_id()), instance, "ada@example.org")
        source = endpoint.source(instance)
        head = await source.head()
        with trio.move_on_after(0.5):
            await source.wait_feed(head)
        assert sum(b"IDLE" in command.upper() for command in quirk.commands) == 1


# ---- names and headers in UTF-8

EIGHT_BIT = "Subject: Grüße\r\nFrom: jøran@exämple.org\r\n\r\ntext\r\n".encode()
PLAIN = b"Subject: plain\r\n\r\n\xff\r\n"
NAMES = ("Entwürfe & mehr", "INBOX", "日本語", "日本語/送信済み")


def a_unicode_server(capabilities: str) -> FakeImap:
    server = FakeImap(capabilities, is_unicode=True)
    for name in NAMES:
        server.add(name, EIGHT_BIT)
        server.add(name, PLAIN)
    return server


async def test_folders_are_the_same_once_a_server_has_learnt_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")
    mailbox_id, instance = MailboxId(new_id()), InstanceId(new_id())
    told = []
    async with open_fake(a_unicode_server(RICH)) as server:
        for capabilities in (RICH, f"{RICH} UTF8=ACCEPT"):
            server.capabilities = capabilities
            server.quirk.commands.clear()
            async with open_endpoint("old", server.url, mirrors=tmp_path, address_of=address_of) as endpoint:
                if not told:
                    await endpoint.adopt(mailbox_id, instance, "ada@example.org")
                source = endpoint.source(instance)
                page = await source.read_seed(None, bytes_max=1 << 20, items_max=100)
                assert sorted(item.content for item in page.items) == sorted([EIGHT_BIT, PLAIN] * len(NAMES))
                told.append((await source.read_hierarchy(), await source.head()))
            spoken = any(b"UTF8=ACCEPT" in command for command in server.quirk.commands)
            assert spoken == ("UTF8=ACCEPT" in capabilities)
    assert {folder.name for folder in told[0][0]} == {"Entwürfe & mehr", "INBOX", "日本語", "送信済み"}
    assert told[0] == told[1]  # nothing changed, not even its number


@pytest.mark.parametrize("capabilities", [RICH, f"{RICH} UTF8=ACCEPT", "IMAP4rev1 AUTH=PLAIN ENABLE UTF8=ACCEPT"])
async def test_headers_that_are_not_ascii_are_appended_as_the_server_wants_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str
) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", "of the fake")
    server = FakeImap(capabilities, is_unicode=True)
    folder = FolderState(FolderId(new_id()), None, "Entwürfe", modseq=1, uidvalidity=1, uidnext=1)
    written = [
        ItemContent(
            ItemState(ItemId(new_id()), folder.folder_id, uid, uid, 0, len(content), content_hash(content), 0, ()),
            content,
        )
        for uid, content in enumerate((EIGHT_BIT, PLAIN, b"no end of the head \xff\r\n"), 1)
    ]
    async with (
        open_fake(server),
        open_endpoint("new", server.url, mirrors=tmp_path, address_of=address_of) as endpoint,
    ):
        target = endpoint.target(InstanceId(new_id()))
        await target.create(MailboxId(new_id()), token=1)
        await target.apply_folders([FolderStep(StepKind.CREATE, folder)], token=1)
        assert await target.write_items(written, token=1) == ()
    assert server.contents() == {"Entwürfe": sorted(item.content for item in written)}
