"""One connection to an LDAP server, made again when it is lost: operations in, entries or a result code out.

With `ldap`, the only module that knows the LDAP library (anyldap: the one that does everything on trio, an extra,
`moverq[ldap]`). It is young, so little of it is used: messages, filters, and its reader of answers.

What always holds:
- An operation whose request may have left is never repeated here. Lost then, or silent for too long, it is
  `EndpointUnavailable`, and the sentence says whether it may have happened.
- An operation runs in a task of the connection's own nursery, so a caller who is cancelled neither cuts a request in
  the middle nor leaves one half sent: what began goes on to its end, and only the answer is dropped.
- The password is read for each connection, and is in no error.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Any, TypeVar, cast

import anyio
import attrs
import trio
from anyldap.delta import Add, Delete, ModifyOp, Replace
from anyldap.protocols import pureber, pureldap
from anyldap.protocols.ldap import ldaperrors
from anyldap.protocols.ldap.ldapclient import LDAPClient, LDAPClientConnectionLostException
from anyldap.runtime import ConnectionDone

from moverq.directory.ldap_settings import LdapSettings
from moverq.errors import EndpointBroken, EndpointUnavailable
from moverq.flow.nursery import open_own_nursery

T = TypeVar("T")

CONNECT_S = 10.0
ANSWER_S = 30.0
"""A server that is silent for longer is taken for lost."""
CLOSE_S = 5.0
PAGE = 500
"""Entries asked for at once (RFC 2696): below the limit that servers set."""
PAGED_RESULTS = "1.2.840.113556.1.4.319"
BASE, SUBTREE = 0, 2

Entry = tuple[str, Mapping[str, list[str]]]
"""Its DN, and its attributes by their names in lower case."""
Filter = pureber.BERBase
Change = Add | Delete | Replace


class Code(IntEnum):
    """Result codes (RFC 4511 §4.1.9) that mean something to a caller; all others are errors here."""

    SUCCESS = 0
    NO_SUCH_ATTRIBUTE = 16
    ATTRIBUTE_OR_VALUE_EXISTS = 20
    NO_SUCH_OBJECT = 32
    ENTRY_ALREADY_EXISTS = 68


PASSING = {3: "time limit", 51: "busy", 52: "unavailable"}
OPERATORS = {
    8: "it wants stronger authentication",
    10: "it refers to another server: name the one that takes writes",
    13: "it wants TLS",
    17: "it does not know the attribute: load moverq's schema (`moverq directory schema`), or name another",
    21: "it takes no such value for that attribute",
    49: "it does not accept bind_dn and password",
    50: "bind_dn may not do that",
    53: "it is unwilling",
    65: "the entry's object classes do not allow that: load moverq's schema, or name others",
}


def equal(attribute: str, value: str) -> Filter:
    return pureldap.LDAPFilter_equalityMatch(
        attributeDesc=pureldap.LDAPAttributeDescription(attribute),
        assertionValue=pureldap.LDAPAssertionValue(value),
    )


def all_of(*filters: Filter) -> Filter:
    return pureldap.LDAPFilter_and(list(filters))


def any_of(*filters: Filter) -> Filter:
    return pureldap.LDAPFilter_or(list(filters))


@asynccontextmanager
async def open_connection(settings: LdapSettings) -> AsyncIterator["LdapConnection"]:
    """A connection, made when it is first needed."""
    # In the nursery: the reader of each client, and each operation that is under way.
    async with open_own_nursery() as nursery:
        connection = LdapConnection(settings, nursery)
        try:
            yield connection
        finally:
            await connection.aclose()


@attrs.define(eq=False)
class LdapConnection:
    """Made by `open_connection`. Any number of operations at once."""

    _settings: LdapSettings
    _nursery: trio.Nursery
    _client: LDAPClient | None = None
    _connecting: trio.Lock = attrs.field(factory=trio.Lock)
    _closed: bool = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._client else "not connected"
        return f"<LdapConnection {self._settings.uri} {state}>"

    async def aclose(self) -> None:
        """Operations under way, and those that come, raise `EndpointUnavailable`. Again does nothing."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            with trio.move_on_after(CLOSE_S, shield=True):  # promptness alone: an open connection loses nothing
                await client.aclose()

    async def search(
        self, base: str, *, scope: int = SUBTREE, where: Filter | None = None, attributes: Sequence[str]
    ) -> list[Entry]:
        """The entries found; with `BASE`, none where there is no such entry. A search that was lost is asked once more.

        Raises: `EndpointBroken` where there is nothing that could be searched below.
        """
        try:
            return await self._operation(lambda client: self._search(client, base, scope, where, attributes))
        except EndpointUnavailable:
            return await self._operation(lambda client: self._search(client, base, scope, where, attributes))

    async def add(self, dn: str, values: Mapping[str, Sequence[str]]) -> bool:
        """There is an entry; False: there was one already. Raises `EndpointBroken` where there is nothing above it."""
        request = pureldap.LDAPAddRequest(
            entry=dn,
            attributes=[
                (
                    pureldap.LDAPAttributeDescription(name),
                    pureber.BERSet([pureldap.LDAPAttributeValue(one) for one in given]),
                )
                for name, given in values.items()
                if given
            ],
        )
        code = await self._write(request)
        if code is Code.NO_SUCH_OBJECT:
            raise EndpointBroken(endpoint=self._settings.uri, why=f"there is nothing that {dn} could lie below")
        return code is Code.SUCCESS

    async def delete(self, dn: str) -> bool:
        """There is no such entry; False: there was none."""
        return await self._write(pureldap.LDAPDelRequest(entry=dn)) is Code.SUCCESS

    async def modify(self, dn: str, changes: Sequence[Change]) -> Code:
        """All of the changes, or none of them: `SUCCESS`; `NO_SUCH_ATTRIBUTE` where a value to be deleted is not
        there, `ATTRIBUTE_OR_VALUE_EXISTS` where one to be added is, `NO_SUCH_OBJECT`."""
        return await self._write(ModifyOp(dn, list(changes)).asLDAP())

    async def _write(self, request: pureldap.LDAPProtocolRequest) -> Code:
        async def write(client: LDAPClient) -> Code:
            return self._code(await client.send(request))

        return await self._operation(write, may_have_happened=True)

    async def _search(
        self, client: LDAPClient, base: str, scope: int, where: Filter | None, attributes: Sequence[str]
    ) -> list[Entry]:
        found: list[Entry] = []
        cookie: bytes | str = b""
        while True:
            asked = pureber.BERSequence([pureber.BERInteger(PAGE), pureber.BEROctetString(cookie)]).toWire()
            done, controls = cast(
                tuple[object, Sequence[Any] | None],
                await client.send_multiResponse_ex(
                    pureldap.LDAPSearchRequest(
                        baseObject=base,
                        scope=scope,
                        filter=where if where is not None else pureldap.LDAPFilterMatchAll,
                        attributes=list(attributes),
                    ),
                    [(PAGED_RESULTS, False, asked)],
                    lambda message, _: self._taken(message, found),
                ),
            )
            if self._code(done) is Code.NO_SUCH_OBJECT:
                if scope != BASE:
                    # Nobody may conclude from this that somebody is not there: mail to him would go back.
                    why = f"there is nothing at {base}, or bind_dn may not see it"
                    raise EndpointBroken(endpoint=self._settings.uri, why=why)
                return []
            cookie = _cookie(controls)
            if not cookie:
                return found

    @staticmethod
    def _taken(message: object, found: list[Entry]) -> bool:
        """True: that was the last answer of this search."""
        if isinstance(message, pureldap.LDAPSearchResultEntry):
            values = {_text(name).lower(): [_text(one) for one in given] for name, given in message.attributes}
            found.append((_text(message.objectName), values))
        return isinstance(message, pureldap.LDAPSearchResultDone)

    def _code(self, result: object) -> Code:
        """Raises `EndpointUnavailable`, `EndpointBroken` for what a caller can do nothing about."""
        assert isinstance(result, pureldap.LDAPResult)
        try:
            return Code(result.resultCode)
        except ValueError:
            raise self._error(result.resultCode, _text(result.errorMessage or b"")) from None

    def _error(self, code: int | None, said: str) -> EndpointUnavailable | EndpointBroken:
        if code is not None and code in PASSING:
            return EndpointUnavailable(endpoint=self._settings.uri, why=f"it says {PASSING[code]}")
        why = OPERATORS.get(code or 0, f"LDAP result {code}")
        return EndpointBroken(endpoint=self._settings.uri, why=f"{why} ({said})" if said else why)

    # ---- the connection

    async def _operation(self, run: Callable[[LDAPClient], Awaitable[T]], *, may_have_happened: bool = False) -> T:
        """What `run` returns or raises.

        Cancelled: what had not begun did not happen; what had begun goes on to its end.
        """
        await trio.lowlevel.checkpoint()
        client = await self._connected()
        ended = trio.Event()
        answers: list[T] = []
        errors: list[Exception] = []

        async def begin() -> None:
            try:
                answers.append(await self._run(client, run, may_have_happened))
            except Exception as error:
                errors.append(error)
            finally:
                ended.set()

        self._nursery.start_soon(begin)
        await ended.wait()
        for error in errors:
            raise error
        for answer in answers:
            return answer
        raise EndpointUnavailable(endpoint=self._settings.uri, why="it was closed here")

    async def _run(self, client: LDAPClient, run: Callable[[LDAPClient], Awaitable[T]], may_have_happened: bool) -> T:
        doubt = "; what was asked may have happened" if may_have_happened else ""
        try:
            with trio.fail_after(ANSWER_S):
                return await run(client)
        except trio.TooSlowError:
            self._drop(client)
            why = f"no answer within {ANSWER_S:.0f} s{doubt}"
        except (
            ConnectionDone,
            LDAPClientConnectionLostException,
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
        ):
            self._drop(client)
            why = f"the connection broke before the answer came{doubt}"
        raise EndpointUnavailable(endpoint=self._settings.uri, why=why)

    async def _connected(self) -> LDAPClient:
        async with self._connecting:
            if self._closed:
                raise EndpointUnavailable(endpoint=self._settings.uri, why="it was closed here")
            if self._client is None or not self._client.connected:
                self._client = None
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> LDAPClient:
        settings = self._settings
        try:
            password = await trio.to_thread.run_sync(settings.password)
            with trio.fail_after(CONNECT_S):
                context = self._context()
                stream = await self._stream(context)
                client = LDAPClient()
                await client.attach_stream(stream, cast(Any, _Reader(self._nursery, client)))
                try:
                    if settings.starttls:
                        await client.startTLS(context, settings.host)
                    if settings.bind_dn:
                        await client.bind(settings.bind_dn, password)
                except BaseException:
                    self._drop(client)
                    raise
                return client
        except ssl.SSLCertVerificationError as error:
            raise EndpointBroken(endpoint=settings.uri, why=f"its certificate: {error.verify_message}") from error
        except trio.TooSlowError:
            raise EndpointUnavailable(endpoint=settings.uri, why=f"no answer within {CONNECT_S:.0f} s") from None
        except ldaperrors.LDAPException as error:
            if isinstance(error, LDAPClientConnectionLostException):
                raise EndpointUnavailable(endpoint=settings.uri, why="it closed the connection") from error
            raise self._error(error.resultCode, _text(error.message or b"")) from error
        except (OSError, ConnectionDone, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise EndpointUnavailable(endpoint=settings.uri, why=_reason(error)) from error

    def _context(self) -> ssl.SSLContext | None:
        """What TLS trusts; None: there is none. Raises `EndpointBroken`."""
        settings = self._settings
        if not (settings.is_tls or settings.starttls):
            return None
        context = ssl.create_default_context()
        try:
            if settings.ca_file is not None:
                context.load_verify_locations(settings.ca_file)
        except OSError as error:
            why = f"ca_file {settings.ca_file} cannot be read: {error}"
            raise EndpointBroken(endpoint=settings.uri, why=why) from error
        return context

    async def _stream(self, context: ssl.SSLContext | None) -> Any:
        if self._settings.is_tls:
            return await anyio.connect_tcp(
                self._settings.host,
                self._settings.port,
                tls=True,
                ssl_context=context,
                tls_hostname=self._settings.host,
                tls_standard_compatible=False,
            )
        return await anyio.connect_tcp(self._settings.host, self._settings.port)

    def _drop(self, client: LDAPClient) -> None:
        """Nobody uses this client any more; whoever waits for an answer of it hears that it is lost."""
        if self._client is client:
            self._client = None
        if client.connected:
            self._nursery.start_soon(client.aclose)


@attrs.frozen
class _Reader:
    """The part of anyio's task group that a client needs, in our nursery: a reader that cannot make sense of what it
    reads loses its connection, and nothing else."""

    nursery: trio.Nursery
    client: LDAPClient

    def start_soon(self, read: Callable[..., Awaitable[None]], *arguments: object) -> None:
        async def reading() -> None:
            try:
                await read(*arguments)
            except Exception:
                await self.client.aclose()

        self.nursery.start_soon(reading)


def _cookie(controls: Sequence[Any] | None) -> bytes | str:
    """Where the next page begins; empty: there is none, or the server knows no pages."""
    for kind, _, value in controls or ():
        if _text(kind) == PAGED_RESULTS and value:
            (sequence,) = pureber.berDecodeMultiple(
                value if isinstance(value, bytes) else value.encode(), pureber.BERDecoderContext()
            )
            return cast(bytes, cast(Any, sequence)[1].value)
    return b""


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause
    return getattr(inner, "strerror", None) or str(inner) or "the connection broke"


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
