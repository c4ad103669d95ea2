"""Logging in to a real server: TLS in both ways, verified; an administrator for a user; secrets from where they are."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.settings import parse
from moverq.endpoints.mirrored.hooks import run_hook
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable, MoveError, RequestRefused
from tests.support.dovecot import Dovecot, shared_dovecot
from tests.support.fake_imap import RICH, FakeImap, Quirk, open_fake
from tests.support.imap_place import ADMIN, PASSWORD

slow = pytest.mark.slow


@pytest.fixture
def server() -> Dovecot:
    return shared_dovecot("mdbox")


@asynccontextmanager
async def logged_in(url: str, user: str = "ada") -> AsyncIterator[Connection]:
    connection = await connect(parse(url), user, answer_s=10)
    try:
        yield connection
    finally:
        await connection.aclose()


@slow
@pytest.mark.parametrize("scheme", ["imaps", "imap"], ids=["implicit", "STARTTLS"])
async def test_tls_is_spoken_and_the_certificate_verified(server: Dovecot, scheme: str) -> None:
    port = server.tls_port if scheme == "imaps" else server.port
    url = f"{scheme}://{ADMIN}@localhost:{port}/?password-file={server.folder}/password"
    async with logged_in(f"{url}&ca-file={server.folder}/tls.pem") as connection:
        assert connection.has(b"UIDPLUS")
    with pytest.raises(EndpointBroken, match="not to be trusted"):
        async with logged_in(url):
            pass


@slow
async def test_a_certificate_for_another_name_is_not_taken(server: Dovecot) -> None:
    url = f"imaps://{ADMIN}@127.0.0.1:{server.tls_port}/?password-file={server.folder}/password"
    with pytest.raises(EndpointBroken, match="not to be trusted"):
        async with logged_in(f"{url}&ca-file={server.folder}/tls.pem"):
            pass


@slow
@pytest.mark.parametrize("more", ["", "&auth=plain", "&auth=login&login-as={user}*{login}"], ids=["", "PLAIN", "LOGIN"])
async def test_an_administrator_logs_in_for_a_user(server: Dovecot, more: str) -> None:
    user = uuid4().hex
    async with logged_in(server.url() + more, user) as connection:
        await connection.run(b"CREATE for-whom-it-is")
    client = server.login(user)
    try:
        assert any(b"for-whom-it-is" in line for line in client.list()[1] if isinstance(line, bytes))
    finally:
        client.shutdown()


@slow
@pytest.mark.parametrize("kind", ["file", "env", "command"])
async def test_a_user_logs_in_for_himself_with_a_secret_from_where_it_is(
    server: Dovecot, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of-ada").write_text(f"{PASSWORD}\nanother line\n")
    monkeypatch.setenv("ADAS_PASSWORD", PASSWORD)
    where = {"file": f"{tmp_path}/of-{{user}}", "env": "ADAS_PASSWORD", "command": f"cat {tmp_path}/of-{{user}}"}[kind]
    async with logged_in(f"imap://127.0.0.1:{server.port}/?tls=none&password-{kind}={where}") as connection:
        assert connection.enabled == {b"CONDSTORE", b"QRESYNC"} or b"QRESYNC" in connection.enabled


@slow
async def test_a_refused_login_says_so_and_never_what_was_sent(
    server: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", "guessed in vain")
    with pytest.raises(EndpointBroken, match="login is refused") as refused:
        async with logged_in(f"imap://127.0.0.1:{server.port}/?tls=none&password-env=WRONG"):
            pass
    assert "guessed" not in f"{refused.value} {refused.value!r} {refused.value.__cause__!r}"


@pytest.mark.parametrize(
    ("says", "asked"),
    [
        (lambda ok: ok.replace(b"OK", b"OK [CAPABILITY IMAP4rev1 UIDPLUS]"), 0),
        (lambda ok: b"* CAPABILITY IMAP4rev1 UIDPLUS\r\n" + ok, 0),
        (lambda ok: ok, 1),
    ],
    ids=["with its OK", "before its OK", "when asked"],
)
async def test_what_a_server_can_do_after_the_login_is_asked_for_unless_it_says_so(
    says: Callable[[bytes], bytes], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", PASSWORD)

    def answer(command: bytes, data: bytes) -> bytes:
        if command.startswith(b"AUTHENTICATE"):
            return says(data)
        if command == b"CAPABILITY":
            return data.replace(RICH.encode(), b"IMAP4rev1 UIDPLUS")
        return data

    quirk = Quirk(answer=answer)
    async with open_fake(FakeImap(RICH, quirk=quirk)) as fake, logged_in(fake.url) as connection:
        assert connection.capabilities == {b"IMAP4REV1", b"UIDPLUS"}
        assert quirk.commands.count(b"CAPABILITY") == asked


async def test_extensions_are_enabled_and_names_exchanged_in_one_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", PASSWORD)
    held: list[bytes] = []

    def answer(command: bytes, data: bytes) -> bytes:
        """To ENABLE only when ID has come, too."""
        if command.startswith(b"ENABLE"):
            held.append(data)
            return b""
        return b"".join(held) + data if command.startswith(b"ID") else data

    async with open_fake(FakeImap(f"{RICH} ID", quirk=Quirk(answer=answer))) as fake:
        with trio.fail_after(5):
            async with logged_in(fake.url) as connection:
                assert b"QRESYNC" in connection.enabled


def refused(answer: bytes) -> bytes:
    return answer.splitlines()[-1].partition(b" ")[0] + b" NO not today\r\n"


@pytest.mark.parametrize("verb", [b"ENABLE", b"ID"])
async def test_a_server_that_refuses_what_it_offered_is_done_without_it(
    verb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", PASSWORD)

    def answer(command: bytes, data: bytes) -> bytes:
        return refused(data) if command.startswith(verb) else data

    async with open_fake(FakeImap(f"{RICH} ID", quirk=Quirk(answer=answer))) as fake, logged_in(fake.url) as connection:
        assert (b"QRESYNC" in connection.enabled) == (verb != b"ENABLE")
        await connection.run(b"NOOP")


@pytest.mark.parametrize("auth", ["plain", "login"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        *((code, EndpointBusy) for code in ("THROTTLED", "INUSE", "LIMIT", "UNAVAILABLE", "SERVERBUG")),
        *((code, EndpointBroken) for code in ("AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED", "ALERT")),
    ],
)
async def test_a_login_that_is_refused_for_the_moment_is_tried_again_and_a_wrong_password_is_not(
    code: str, error: type[MoveError], auth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", PASSWORD)

    def answer(command: bytes, data: bytes) -> bytes:
        return data.replace(b"OK done", b"NO [%s] not now" % code.encode())

    async with open_fake(FakeImap(quirk=Quirk(answer=answer))) as fake:
        with pytest.raises(error, match="not now"):
            async with logged_in(f"{fake.url.replace('admin@', '')}&auth={auth}"):
                pass


async def test_a_server_that_does_not_say_what_it_can_do_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PASSWORD", PASSWORD)

    def answer(command: bytes, data: bytes) -> bytes:
        return refused(data) if command == b"CAPABILITY" else data

    async with open_fake(FakeImap(RICH, quirk=Quirk(answer=answer))) as fake:
        with pytest.raises(MoveError, match="say what it can do"):
            async with logged_in(fake.url):
                pass


async def test_a_server_that_waits_for_tls_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moverq.endpoints.imap.login.CONNECT_S", 0.1)
    monkeypatch.setenv("THE_SECRET", "x")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(EndpointUnavailable, match=r"says nothing within .* say imaps://"):
            await connect(parse(f"imap://ada@127.0.0.1:{port}/?password-env=THE_SECRET"), "ada", answer_s=10)


async def test_a_server_that_is_not_there_is_waited_for() -> None:
    os.environ.setdefault("NOBODYS", "x")
    with pytest.raises(EndpointUnavailable):
        async with logged_in("imap://127.0.0.1:1/?tls=none&password-env=NOBODYS"):
            pass


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("imaps://ada:secret@host/?password-env=X", "no place for a password"),
        ("imaps://ada:secret@host:port/?password-env=X", "no place for a password"),
        ("nntp://ada:secret@host/", "no place for a password"),
        ("imaps://host:port?password-env=X&user=a@b", "does not say where"),
        ("imaps://host/", "where the password is"),
        ("imaps://host/?password-env=X&password-file=y", "where the password is"),
        ("imaps:///?password-env=X", "needs the form"),
        ("imaps://host/inbox?password-env=X", "means nothing"),
        ("imaps://host/?password-env=X&verify=no", "verify means nothing"),
        ("imap://host/?password-env=X&tls=maybe", "only tls=none"),
        ("imaps://host/?password-env=X&auth=digest-md5", "it is one of"),
        ("imaps://host/?password-env=X&connections=0", "from 1 to"),
        ("imaps://host/?password-env=X&lock-command=true", "go together"),
        ("imaps://host:port/?password-env=X", "does not say"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_in_words(url: str, why: str) -> None:
    with pytest.raises(RequestRefused, match=why) as refused:
        parse(url)
    assert "secret" not in str(refused.value)


def test_users_are_named_as_the_server_names_them() -> None:
    for template, user in (
        ("", "ada@example.org"),
        ("&user={local}", "ada"),
        ("&user={domain}/{local}", "example.org/ada"),
    ):
        assert parse(f"imaps://host/?password-env=X{template}").user_of("ada@example.org") == user


async def test_a_hook_is_told_the_user_and_must_end_well(tmp_path: Path) -> None:
    mark = tmp_path / "locked-{user}"
    await run_hook(("touch", str(mark)), user="ada", endpoint="OLD")
    assert (tmp_path / "locked-ada").exists()
    with pytest.raises(EndpointUnavailable, match="exit code 3: still 2 sessions"):
        await run_hook(("sh", "-c", "echo still 2 sessions >&2; exit 3"), user="ada", endpoint="OLD")
    with pytest.raises(EndpointUnavailable, match="cannot be run"):
        await run_hook(("/no/such/command",), user="ada", endpoint="OLD")
