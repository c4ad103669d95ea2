"""One connection to an IMAP server: commands go out as fast as they come, answers are taken in their order.

    send ─▶ [A1 A2 A3] ─▶ server ─▶ untagged … A1 OK, untagged … A2 OK, …
                                     └─ to `take` of the oldest command that is not done

Pull, not push: no task lives here. Whoever awaits a command reads until its answer is there, and what comes for
earlier ones on the way is theirs. So a connection serves one task at a time, and between its calls the server works
ahead by as much as the sockets hold: that is the pipeline, bounded by the kernel.

What always holds: a connection in which anything went wrong, or was cancelled, half way is of no more use; its owner
closes it. The mailbox's bytes are never looked into.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import attrs
import trio

from moverq.endpoints.imap.tls import TlsStream
from moverq.endpoints.imap.wire import (
    Incoming,
    Literal,
    Response,
    Said,
    Usual,
    WireError,
    is_quotable,
    quoted,
    said,
    tokens,
)
from moverq.endpoints.mirrored.utf7 import from_utf7, to_utf7
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable, MoveError, RequestRefused

RECEIVE_BYTES: Final = 512 << 10
SEND_BYTES: Final = 256 << 10
"""A system call, and a step of the scheduler, for some twenty messages."""
PIECES_AT_ONCE: Final = 512
"""Of a system call; Linux takes 1,024."""
COMMANDS_AHEAD: Final = 100
"""Commands on their way at a time. A server that cannot get rid of its answers reads no more commands, so who sent ten
thousand without taking an answer would wait for it as it waits for him."""
LITERAL_MINUS_BYTES: Final = 4096
"""LITERAL- lets so many bytes be sent unasked (RFC 7888)."""
UNASKED_BYTES_MAX: Final = 8 << 20
"""What is larger is asked for also where it need not be: to a literal that it does not want a server says no, and to
one that comes unasked it may only end the connection (RFC 7888, section 4), again and again."""

UTF8_ACCEPT: Final = b"UTF8=ACCEPT"


class MailboxName(bytes):
    """A mailbox name in modified UTF-7, as the mover keeps it whatever a connection speaks."""


Take = Callable[[Response], None]
Piece = bytes | Literal | MailboxName | memoryview
"""Of a command: text as it stands, or a literal; a memoryview is a literal too, which is not copied to become one."""


class Refused(Exception):
    """The server answered NO or BAD. Never leaves this folder: who gave the command knows what it means."""

    def __init__(self, answer: Said, command: str) -> None:
        super().__init__(f"{command}: {answer.status.decode('ascii', 'replace')} {answer.text}".strip())
        self.answer = answer


@attrs.define(eq=False)
class Command:
    """A command on its way."""

    tag: bytes
    name: str
    take: Take | None
    usual: Usual | None = None
    """Reads what comes by the thousand; `take` has what that left."""
    answer: Said | None = None

    def end(self, answer: Said) -> None:
        """Nothing more comes for it. Whoever takes also holds the command: in such a ring, megabytes of messages would
        stay until the next collection."""
        self.answer = answer
        self.take = self.usual = None


@attrs.define(eq=False)
class Selection:
    """A folder that is selected by the commands sent so far."""

    wire: bytes
    is_writable: bool
    command: Command | None = None
    """EXAMINE, whose answer may still be to come."""
    validity: int = 0
    validity_now: int = 0
    """As a STATUS told last."""
    bodies: dict[int, bytes] = attrs.field(factory=dict)
    """By UID, what came and nobody has taken yet. A server may work on several commands at once, and what it says does
    not tell of which it comes."""


@attrs.define(eq=False)
class Connection:
    """See the module. Made by `login`."""

    endpoint: str
    stream: trio.abc.Stream
    answer_s: float
    capabilities: frozenset[bytes] = frozenset()
    enabled: frozenset[bytes] = frozenset()
    selected: Selection | None = None
    """The folder that is known to be selected."""
    is_in_folder: bool = False
    """Some folder is selected."""
    _incoming: Incoming = attrs.field(factory=Incoming)
    _number: int = 0
    _waiting: deque[Command] = attrs.field(factory=deque)
    _may_continue: bool = False
    bytes_in: int = 0
    bytes_out: int = 0

    def __repr__(self) -> str:
        return f"<Connection {self.endpoint} {len(self._waiting)} commands on their way>"

    def has(self, *names: bytes) -> bool:
        return self.capabilities.issuperset(names)

    @property
    def is_utf8(self) -> bool:
        """Names and headers are in UTF-8 (RFC 6855)."""
        return UTF8_ACCEPT in self.enabled

    def mailbox_named(self, word: bytes) -> bytes:
        """A mailbox name that the server said, as the mover keeps it; INBOX in one way."""
        if word.upper() == b"INBOX":
            return b"INBOX"
        return to_utf7(word.decode("utf-8", "backslashreplace")) if self.is_utf8 else bytes(word)

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way."""
        return not self._waiting and self._incoming.is_between_responses

    # ---- commands

    async def start(
        self,
        *pieces: Piece,
        take: Take | None = None,
        usual: Usual | None = None,
        before_end: Callable[[], Awaitable[None]] | None = None,
    ) -> Command:
        """The command is sent (or in the kernel's hands); `done` awaits its answer. Where `COMMANDS_AHEAD` others have
        none yet, answers are taken first.

        A literal that may not be sent unasked is asked for, and answers of earlier commands are taken meanwhile.
        `before_end` is awaited when all but the end of the command is sent: the server has the bytes, and does not yet
        do what it is told.
        """
        while len(self._waiting) >= COMMANDS_AHEAD:
            self._dispatch(await self._receive())
        self._number += 1
        name = bytes(pieces[0]).split(b" ", 1)[0].decode("ascii", "replace")
        command = Command(b"M%d" % self._number, name, take, usual)
        self._waiting.append(command)
        unasked_bytes_max = (
            UNASKED_BYTES_MAX if self.has(b"LITERAL+") else LITERAL_MINUS_BYTES if self.has(b"LITERAL-") else -1
        )
        out: list[bytes | memoryview] = [command.tag + b" "]
        size = 0
        for piece in pieces:
            if type(piece) is bytes:
                out.append(piece)
                continue
            if type(piece) is MailboxName:
                name_there = from_utf7(piece).encode(errors="surrogatepass") if self.is_utf8 else bytes(piece)
                piece = quoted(name_there) if is_quotable(name_there) else Literal(name_there)
            length = len(piece)
            if type(piece) is not memoryview and not isinstance(piece, Literal):
                out.append(piece)
            elif length <= unasked_bytes_max:
                out += (b"{%d+}\r\n" % length, piece)
            else:
                out.append(b"{%d}\r\n" % length)
                await self._send(out)
                out, size = [], 0
                if not await self._is_asked_for(command):
                    return command
                out.append(piece)
            size += length
            if size >= SEND_BYTES:
                await self._send(out)
                out, size = [], 0
        if before_end is not None:
            await self._send(out)
            out = []
            await before_end()
        out.append(b"\r\n")
        await self._send(out)
        return command

    async def done(self, command: Command) -> Said:
        """The command's answer, which was OK.

        Raises:
            Refused: it was NO or BAD.
            EndpointUnavailable: the connection is lost, or silent for too long.
        """
        while command.answer is None:
            self._dispatch(await self._receive())
        if command.answer.status != b"OK":
            raise Refused(command.answer, command.name)
        return command.answer

    async def refusals(self, commands: Sequence[Command | None]) -> list[Refused | None]:
        """What was said to each of these commands, where that was no. Raises `EndpointUnavailable`."""
        found: list[Refused | None] = []
        for command in commands:
            try:
                if command is not None:
                    await self.done(command)
                found.append(None)
            except Refused as refused:
                found.append(refused)
        return found

    async def run(self, *pieces: Piece, take: Take | None = None) -> Said:
        return await self.done(await self.start(*pieces, take=take))

    async def greeting(self) -> Said:
        """What the server says first. Raises `EndpointUnavailable` where it says BYE."""
        response = await self._receive()
        star, _, rest = response.head.partition(b" ")
        answer = said(rest)
        if star != b"*" or answer.status not in (b"OK", b"PREAUTH"):
            raise EndpointUnavailable(
                endpoint=self.endpoint, why=f"it said {response.head[:200]!r} where a greeting is due"
            )
        return answer

    async def converse(self, command: Command, reply: Callable[[bytes], bytes]) -> Said:
        """For AUTHENTICATE and IDLE: `reply` answers each `+` of the server until the command is done."""
        while command.answer is None:
            response = await self._receive()
            if response.head[:1] == b"+":
                await self._send([reply(response.head[1:].strip()) + b"\r\n"])
            else:
                self._dispatch(response)
        return await self.done(command)

    async def idle(self) -> bool:
        """The server tells what happens in the selected folder, until the connection is closed. False: it will not."""
        return await self._is_asked_for(await self.start(b"IDLE"))

    async def overhear(self, *, at_most_s: float) -> bool:
        """Has the server spoken of its own accord? Waits for it so long. `OK` and the like, by which servers show that
        they are still there, do not count.

        Raises: EndpointUnavailable.
        """
        heard = False
        with trio.move_on_after(at_most_s):
            while not heard:
                heard = self._overheard(await self._receive())
        while (response := self._incoming.next()) is not None:
            heard = self._overheard(response) or heard
        return heard

    def _overheard(self, response: Response) -> bool:
        self._dispatch(response)
        return response.head[:2] == b"* " and response.head[2:5].upper() not in (b"OK ", b"NO ", b"BAD")

    async def leave(self) -> None:
        """No folder is selected, once the answer is there: of the folder that is, a server tells old stories, and it
        ends the connection where somebody deletes that folder. Not waited for."""
        if not self.is_in_folder:
            return
        if self.has(b"UNSELECT"):
            await self.start(b"UNSELECT")
        elif self.selected is None or not self.selected.is_writable:
            await self.start(b"CLOSE")  # of a folder that was only examined, so nothing is expunged
        else:
            await self.start(b"NOOP")
        self.selected = None
        self.is_in_folder = False

    def rest(self) -> None:
        """Nobody uses it for now: it takes little memory."""
        self._incoming.shrink()

    async def aclose(self) -> None:
        """Gone, without a word: nothing depends on a farewell."""
        await trio.aclose_forcefully(self.stream)

    # ---- bytes

    async def _is_asked_for(self, command: Command) -> bool:
        """True: the server wants the literal. False: it has refused the command instead."""
        while command.answer is None:
            response = await self._receive()
            if response.head[:1] == b"+":
                return True
            self._dispatch(response)
        return False

    async def _send(self, pieces: Sequence[bytes | memoryview]) -> None:
        self.bytes_out += sum(map(len, pieces))
        try:
            with trio.fail_after(self.answer_s):
                if isinstance(self.stream, trio.SocketStream):
                    await send_pieces(self.stream.socket, pieces)
                else:
                    await self.stream.send_all(b"".join(pieces))
        except trio.TooSlowError:
            raise self._silent() from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise EndpointUnavailable(endpoint=self.endpoint, why="the connection was lost") from error

    async def _receive(self) -> Response:
        usual = self._waiting[0].usual if self._waiting else None
        try:
            while True:
                if usual is not None:
                    self._incoming.skim(usual)
                response = self._incoming.next()
                if response is not None:
                    return response
                with trio.fail_after(self.answer_s):
                    size = await self._take_in()
                if not size:
                    raise EndpointUnavailable(endpoint=self.endpoint, why="it closed the connection")
                self.bytes_in += size
        except trio.TooSlowError:
            raise self._silent() from None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise EndpointUnavailable(endpoint=self.endpoint, why="the connection was lost") from error
        except WireError as error:
            raise EndpointUnavailable(endpoint=self.endpoint, why=f"it does not speak IMAP: {error}") from error

    async def _take_in(self) -> int:
        """How much came; 0: the other side has ended. From a socket, or decrypted, it goes where it is read."""
        if isinstance(self.stream, trio.SocketStream | TlsStream):
            receive = self.stream.receive_into if isinstance(self.stream, TlsStream) else self.stream.socket.recv_into
            with self._incoming.room() as room:
                size = await receive(room)
            self._incoming.came(size)
            return size
        data = await self.stream.receive_some(RECEIVE_BYTES)
        self._incoming.feed(data)
        return len(data)

    def _silent(self) -> EndpointUnavailable:
        return EndpointUnavailable(endpoint=self.endpoint, why=f"it did not answer for {self.answer_s:.0f} s")

    def _dispatch(self, response: Response) -> None:
        head = response.head
        if head[:2] == b"* ":
            word = head[2:7].upper()
            if word.startswith(b"BYE"):
                raise EndpointUnavailable(
                    endpoint=self.endpoint, why=f"it said goodbye: {said(head[2:]).text or '(no word)'}"
                )
            if word.startswith(b"CAPAB"):
                self.capabilities = frozenset(head[2:].upper().split()[1:])
            if self._waiting and self._waiting[0].take is not None:
                self._take(self._waiting[0].take, response)
            return
        tag, _, rest = head.partition(b" ")
        if not self._waiting or tag != self._waiting[0].tag:
            if any(command.tag == tag for command in self._waiting):
                # Out of order, as a server may answer commands that cannot meet. What belongs to whom is told by
                # UIDs, so nothing is mixed up.
                command = next(command for command in self._waiting if command.tag == tag)
                self._waiting.remove(command)
                command.end(said(rest))
                return
            raise EndpointUnavailable(endpoint=self.endpoint, why=f"it answered {head[:80]!r}, which nobody asked")
        command = self._waiting.popleft()
        answer = said(rest)
        if answer.code == b"CAPABILITY":
            self.capabilities = frozenset(answer.arguments.upper().split())
        if answer.code and command.take is not None:
            # What the code says (COPYUID, HIGHESTMODSEQ) may also come untagged: one place hears both.
            self._take(command.take, Response((b"* " + rest,)))
        command.end(answer)

    def _take(self, take: Take, response: Response) -> None:
        try:
            take(response)
        except (WireError, LookupError, ValueError, TypeError, AttributeError) as error:  # a list where a word is due
            raise EndpointUnavailable(
                endpoint=self.endpoint, why=f"its answer {response.head[:120]!r} cannot be read: {error}"
            ) from error


# ---- words


def words(response: Response) -> list[Any]:
    """The words of an untagged response, without the star."""
    return tokens(response.parts)[1:]


async def send_pieces(socket: trio.socket.SocketType, pieces: Sequence[bytes | memoryview]) -> None:
    """All of these, in order, without a copy of them in one piece. Cancelled, or an error: some of them."""
    left, at = list(pieces), 0
    while at < len(left):
        sent = await socket.sendmsg(left[at : at + PIECES_AT_ONCE])
        while at < len(left) and sent >= len(left[at]):
            sent -= len(left[at])
            at += 1
        if sent:
            left[at] = memoryview(left[at])[sent:]


def astring(text: str) -> Piece:
    data = text.encode()
    return quoted(data) if is_quotable(data) else Literal(data)


PASSING: Final = frozenset((b"UNAVAILABLE", b"INUSE", b"THROTTLED", b"SERVERBUG"))
"""Said of the moment, not of what was asked for."""
BUSY: Final = PASSING | {b"LIMIT"}
_BUSY_IN_PART: Final = (b"INUSE", b"SERVERBUG")
"""Said of what was asked for, not of the server. A SERVERBUG comes and goes, as Dovecot's do; or it stays, where the
folder is damaged."""
_BROKEN: Final = {
    b"OVERQUOTA": "the quota is used up",
    b"NOPERM": "this login may not do so",
    b"AUTHENTICATIONFAILED": "the login is refused",
    b"AUTHORIZATIONFAILED": "this login may not act for the user",
    b"EXPIRED": "the password has expired",
    b"PRIVACYREQUIRED": "it wants TLS",
    b"CONTACTADMIN": "it asks for its administrator",
    b"CORRUPTION": "the mailbox is damaged there",
}


def error_of(endpoint: str, refused: Refused, *, doing: str) -> MoveError:
    """Ours for what a server refused, where the caller has no better word for it. `doing` names the folder, where there
    is one: an administrator must know where to look."""
    answer = refused.answer
    text = answer.text or answer.status.decode("ascii", "replace")
    if answer.code in BUSY:
        part = doing if answer.code in _BUSY_IN_PART else ""
        return EndpointBusy(endpoint=endpoint, retry_after_s=60.0, why=f"{doing}: {text}", part=part)
    if answer.code in _BROKEN:
        return EndpointBroken(endpoint=endpoint, why=f"{_BROKEN[answer.code]} ({doing}: {text})")
    if answer.status == b"BAD":
        return EndpointBroken(endpoint=endpoint, why=f"it did not understand a command ({doing}: {text})")
    return RequestRefused(why=f"{endpoint} refuses to {doing}: {text}")


def shown(wire: bytes) -> str:
    """A folder's name as it is at the server, for a sentence."""
    return repr(wire.decode("ascii", "replace"))
