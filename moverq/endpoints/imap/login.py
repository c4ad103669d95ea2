"""From an address of a server to a connection that is logged in: TLS, capabilities, authentication, extensions.

Secrets are read here, when they are needed, and go nowhere but into the one command that says them. What a failed
login reports is the server's answer, never what was sent.
"""

import base64
import os
import shlex
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from moverq.endpoints.imap.connection import BUSY, UTF8_ACCEPT, Command, Connection, Refused, astring, error_of
from moverq.endpoints.imap.deflate import DeflateStream
from moverq.endpoints.imap.sasl import Dialogue, dialogue
from moverq.endpoints.imap.settings import Secret, Settings
from moverq.endpoints.imap.tls import TlsStream
from moverq.endpoints.imap.wire import Response, Said
from moverq.endpoints.mirrored.hooks import fill
from moverq.errors import EndpointBroken, EndpointUnavailable, RequestRefused
from moverq.version import __version__

CONNECT_S: Final = 30.0
WANTED: Final = (b"CONDSTORE", b"QRESYNC", UTF8_ACCEPT)
"""What is enabled where it is there."""


async def connect(settings: Settings, user: str, *, answer_s: float) -> Connection:
    """A connection, logged in for `user`.

    Raises:
        EndpointUnavailable: no connection, no TLS, no greeting.
        EndpointBusy: the login is refused for the moment.
        EndpointBroken: the login is refused, or the certificate is not to be trusted.
    """
    endpoint = f"{user} at {settings.host}:{settings.port}"
    context = await trio.to_thread.run_sync(_context, settings) if settings.tls != "none" else None
    stream = await _open(settings, endpoint)
    connection = Connection(endpoint, stream, answer_s)
    try:
        if context is not None and settings.tls == "implicit":
            connection.stream = await _wrap(stream, context, settings, endpoint)
        greeting = await _greeting(connection, settings)
        if not connection.capabilities and greeting.code == b"CAPABILITY":
            connection.capabilities = frozenset(greeting.arguments.upper().split())
        if context is not None and settings.tls == "starttls":
            await _start_tls(connection, stream, context, settings)
        if not connection.capabilities:
            await _ask_capabilities(connection)
        if greeting.status != b"PREAUTH":
            before = connection.capabilities
            await _authenticate(connection, settings, user)
            if connection.capabilities is before:  # most say with the login what they can do now; this one did not
                await _ask_capabilities(connection)
        await _introduce(connection)
        if settings.compress and connection.has(b"COMPRESS=DEFLATE"):
            await _compress(connection)
    except BaseException:
        await connection.aclose()
        raise
    return connection


# ---- the connection


async def _greeting(connection: Connection, settings: Settings) -> Said:
    """A server that waits for us to begin TLS says nothing, ever."""
    with trio.move_on_after(CONNECT_S):
        return await connection.greeting()
    hint = "" if settings.tls == "implicit" else "; if TLS begins with the first byte there, say imaps://"
    raise EndpointUnavailable(endpoint=connection.endpoint, why=f"it says nothing within {CONNECT_S:.0f} s{hint}")


async def _open(settings: Settings, endpoint: str) -> trio.SocketStream:
    try:
        with trio.fail_after(CONNECT_S):
            return await trio.open_tcp_stream(settings.host, settings.port)
    except trio.TooSlowError as error:
        raise EndpointUnavailable(endpoint=endpoint, why=f"no connection within {CONNECT_S:.0f} s") from error
    except OSError as error:
        raise EndpointUnavailable(endpoint=endpoint, why=str(error)) from error


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise EndpointBroken(endpoint=str(settings.ca_file), why=f"the CA file cannot be read: {error}") from error


async def _wrap(stream: trio.SocketStream, context: ssl.SSLContext, settings: Settings, endpoint: str) -> TlsStream:
    wrapped = TlsStream(stream, context, server_hostname=settings.host)
    try:
        with trio.fail_after(CONNECT_S):
            await wrapped.handshake()
    except trio.TooSlowError as error:
        raise EndpointUnavailable(endpoint=endpoint, why="TLS took too long") from error
    except (trio.BrokenResourceError, ssl.SSLError) as error:
        if isinstance(error, ssl.SSLCertVerificationError):
            raise EndpointBroken(
                endpoint=endpoint,
                why=f"its certificate is not to be trusted ({error.verify_message}); name its CA with ca-file=",
            ) from error
        raise EndpointUnavailable(endpoint=endpoint, why=f"no TLS: {error}") from error
    return wrapped


async def _start_tls(
    connection: Connection, stream: trio.SocketStream, context: ssl.SSLContext, settings: Settings
) -> None:
    if not connection.capabilities:
        await _ask_capabilities(connection)
    if not connection.has(b"STARTTLS"):
        raise EndpointBroken(
            endpoint=connection.endpoint,
            why="it offers no STARTTLS; use imaps://, or tls=none on a network of your own",
        )
    try:
        await connection.run(b"STARTTLS")
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing="start TLS") from refused
    if not connection.is_idle:
        raise EndpointBroken(endpoint=connection.endpoint, why="it spoke on in plain text after STARTTLS")
    connection.stream = await _wrap(stream, context, settings, connection.endpoint)
    # What was said before TLS may have been said by anybody.
    connection.capabilities = frozenset()


# ---- who we are


async def _authenticate(connection: Connection, settings: Settings, user: str) -> None:
    secret = await read_secret(settings.secret, user)
    actor = settings.login if settings.login is not None else user
    name = actor if settings.login_as is None else fill(settings.login_as, {"user": user, "login": actor})
    acts_for = user if settings.login is not None and settings.login_as is None else ""
    method = settings.auth or _method(connection, acts_for)
    try:
        if method == "login":
            if acts_for:
                raise EndpointBroken(
                    endpoint=connection.endpoint,
                    why="it offers no AUTH=PLAIN, so an administrator cannot log in for a user; say login-as=",
                )
            await connection.run(b"LOGIN ", astring(name), b" ", astring(secret))
        else:
            talk = dialogue(method, name=name, acts_for=acts_for, secret=secret, endpoint=connection.endpoint)
            await _sasl(connection, method.upper().encode(), talk)
    except Refused as refused:
        said = refused.answer
        if said.code in BUSY:
            raise error_of(connection.endpoint, refused, doing="log in") from None
        why = f"the login is refused: {said.text or said.status.decode()}"
        raise EndpointBroken(endpoint=connection.endpoint, why=why) from None


def _method(connection: Connection, acts_for: str) -> str:
    if connection.has(b"AUTH=PLAIN"):
        return "plain"
    if not connection.has(b"LOGINDISABLED"):
        return "login"
    for scram in ("scram-sha-256", "scram-sha-1"):
        if connection.has(b"AUTH=" + scram.upper().encode()) and not acts_for:
            return scram
    raise EndpointBroken(endpoint=connection.endpoint, why="it offers neither PLAIN nor LOGIN here; name another auth=")


async def _sasl(connection: Connection, mechanism: bytes, talk: Dialogue) -> None:
    unsaid = [talk.first()]

    def reply(challenge: bytes) -> bytes:
        word = unsaid.pop() if unsaid else talk.answer(_from_base64(challenge))
        return base64.b64encode(word)

    if connection.has(b"SASL-IR"):
        command = await connection.start(b"AUTHENTICATE " + mechanism + b" " + base64.b64encode(unsaid.pop()))
    else:
        command = await connection.start(b"AUTHENTICATE " + mechanism)
    await connection.converse(command, reply)
    talk.check_over()


def _from_base64(challenge: bytes) -> bytes:
    """What is no base64 is no challenge to anything: empty."""
    try:
        return base64.b64decode(challenge, validate=True)
    except ValueError:
        return b""


async def _ask_capabilities(connection: Connection) -> None:
    try:
        await connection.run(b"CAPABILITY")
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing="say what it can do") from refused


async def _introduce(connection: Connection) -> None:
    """Extensions are enabled, names exchanged; in one round trip."""
    enabled: set[bytes] = set()

    def take(response: Response) -> None:
        head = response.head.upper()
        if head.startswith(b"* ENABLED"):
            enabled.update(head.split()[2:])

    asked: list[Command] = []
    wanted = [name for name in WANTED if connection.has(name)]
    if wanted and connection.has(b"ENABLE"):
        asked.append(await connection.start(b"ENABLE " + b" ".join(wanted), take=take))
    if connection.has(b"ID"):
        asked.append(await connection.start(b'ID ("name" "moverq" "version" "' + __version__.encode() + b'")'))
    await connection.refusals(asked)  # who refuses either does without
    connection.enabled = frozenset(enabled)


async def _compress(connection: Connection) -> None:
    """From here on both sides deflate. Where the server will not (TLS does so already), all stays as it is."""
    try:
        await connection.run(b"COMPRESS DEFLATE")
    except Refused:
        return
    connection.stream = DeflateStream(connection.stream)


# ---- secrets


async def read_secret(secret: Secret, user: str) -> str:
    """The password or token, as it is now. Raises `RequestRefused` where there is none, without a word of it."""
    if secret.kind == "env":
        found = os.environ.get(secret.where)
        if found is None:
            raise RequestRefused(why=f"the environment variable {secret.where}, which holds a password, is not set")
        return found
    if secret.kind == "file":
        path = Path(fill(secret.where, {"user": user}))
        return await trio.to_thread.run_sync(_first_line(path))
    words = [fill(word, {"user": user}) for word in shlex.split(secret.where)]
    try:
        done = await trio.run_process(words, capture_stdout=True, check=False)
    except OSError as error:
        raise RequestRefused(why=f"the password command {words[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise RequestRefused(why=f"the password command {words[0]} failed with exit code {done.returncode}")
    return bytes(done.stdout).decode().partition("\n")[0].rstrip("\r")


def _first_line(path: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            with path.open(encoding="utf-8") as file:
                return file.readline().rstrip("\r\n")
        except (OSError, UnicodeError) as error:
            raise RequestRefused(why=f"the password file {path} cannot be read: {error}") from error

    return read
