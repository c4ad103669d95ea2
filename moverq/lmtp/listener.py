"""Where MTAs connect: a loopback port or a unix socket, a session for each connection, and an end that loses nothing.

    open_listener("127.0.0.1:2424", find) ── accept ── LmtpSession ── …
      leaving: no more connections; each session ends before its next command; after `stop_deadline_s` it is cut

LMTP as spoken here knows no login and no TLS: whoever can connect can deliver. So a port is on loopback or refused, and
a unix socket has the mode that it is given before anybody can connect.
"""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from moverq.errors import EndpointBroken, RequestRefused
from moverq.flow.byte_budget import ByteBudget
from moverq.flow.log import log
from moverq.limits import Limits
from moverq.lmtp.reply import Reply
from moverq.lmtp.session import FindMailbox, LmtpSession

BACKLOG = 128
SOCKET_MODE = 0o660


@attrs.define(eq=False)
class LmtpListener:
    """Takes deliveries until its context is left. Made by `open_listener`."""

    address: str
    """Where it listens, with the port that it got: as `--listen` has it."""
    _find: FindMailbox
    _limits: Limits
    _budget: ByteBudget
    _sessions: set[LmtpSession] = attrs.field(factory=set)

    def __repr__(self) -> str:
        return f"<LmtpListener {self.address} {len(self._sessions)} sessions, {self._budget}>"

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, to its end. A bug in it is logged and costs this connection alone."""
        async with stream:
            if len(self._sessions) >= self._limits.lmtp_connections_max:
                with trio.move_on_after(1), suppress(trio.BrokenResourceError):
                    await stream.send_all(bytes(Reply(421, "4.3.2", "too many connections; come again")))
                return
            session = LmtpSession(stream, socket.gethostname(), self._find, self._budget, self._limits)
            self._sessions.add(session)
            try:
                await session.run()
            except Exception as error:
                log("moverq.lmtp").error("session failed, a bug", exc_info=error)
            finally:
                self._sessions.discard(session)

    def stop(self) -> None:
        """Every session ends before its next command."""
        for session in self._sessions:
            session.stop()


@asynccontextmanager
async def open_listener(
    where: str, find: FindMailbox, *, limits: Limits | None = None, socket_mode: int = SOCKET_MODE
) -> AsyncIterator[LmtpListener]:
    """Deliveries are taken at `where`: `127.0.0.1:2424`, `[::1]:2424` or `unix:/run/moverq/lmtp`.

    On leaving, what is being delivered is answered; after `stop_deadline_s` the rest is cut, and sent again by the MTA.

    Raises:
        RequestRefused: that is no address, or not one of this machine alone, or somebody listens there.
        EndpointBroken: it cannot be listened at.
    """
    bounds = limits if limits is not None else Limits()
    opened, address = bind(where, socket_mode)
    opened.setblocking(False)
    intake_end = trio.SocketListener(trio.socket.from_stdlib_socket(opened))
    listener = LmtpListener(address, find, bounds, ByteBudget(bounds.lmtp_bytes_max))
    # In the outer nursery: the sessions, ended by `stop` or the deadline. In the inner one: the intake, ended first.
    async with trio.open_nursery() as sessions:
        try:
            async with trio.open_nursery() as intake:

                async def accept() -> None:
                    await trio.serve_listeners(listener.serve, [intake_end], handler_nursery=sessions)

                intake.start_soon(accept)
                try:
                    yield listener
                finally:
                    intake.cancel_scope.cancel()
        finally:
            _unbind(intake_end, where)
            sessions.cancel_scope.deadline = trio.current_time() + bounds.stop_deadline_s
            listener.stop()


def bind(where: str, socket_mode: int = SOCKET_MODE) -> tuple[socket.socket, str]:
    """A listening socket, and where it listens. Raises `RequestRefused`, `EndpointBroken`."""
    try:
        if where.startswith("unix:"):
            return _bind_path(_path(where), socket_mode), where
        return _bind_port(*_loopback(where))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RequestRefused(why=f"somebody listens at {where} already") from error
        raise EndpointBroken(endpoint=where, why=f"cannot be listened at: {error.strerror or error}") from error


def _loopback(where: str) -> tuple[str, int]:
    host, _, port = where.rpartition(":")
    host = {"localhost": "127.0.0.1"}.get(host, host.strip("[]"))
    try:
        address, number = ipaddress.ip_address(host), int(port)
    except ValueError:
        address, number = None, -1
    if address is None or not 0 <= number < 65536:
        raise RequestRefused(
            why=f"{where!r} is nothing to listen at: say 127.0.0.1:2424, [::1]:2424 or unix:/run/moverq/lmtp"
        )
    if not address.is_loopback:
        raise RequestRefused(
            why=f"{host} can be reached from other machines, and LMTP has no login: listen at 127.0.0.1, ::1 or a unix "
            f"socket, and let the MTA deliver from there"
        )
    return host, number


def _bind_port(host: str, port: int) -> tuple[socket.socket, str]:
    opened = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
    )
    number = opened.getsockname()[1]
    return opened, f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _bind_path(path: Path, mode: int) -> socket.socket:
    """What a listener that was killed left at `path` is taken away; a living one is left alone."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise RequestRefused(why=f"{path} is there, and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.bind(str(path))
        path.chmod(mode)  # nobody can connect before it listens
        opened.listen(BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened


def _path(where: str) -> Path:
    return Path(where.removeprefix("unix:"))


def _unbind(opened: trio.SocketListener, where: str) -> None:
    """The path first: whoever finds one finds somebody behind it."""
    if where.startswith("unix:"):
        _path(where).unlink(missing_ok=True)
    opened.socket.close()
