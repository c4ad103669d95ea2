"""One client's connection: commands, the message, and an answer for each recipient after its commit.

    client ── lines ── parse_command ── transaction (sender, recipients) ── DATA ── deliver to each at once
                                                                                        │ 250, 451, 5xx each
           ◀── replies, held back while more pipelined commands are here already ◀──────┘

What always holds:
- 250 to a recipient means that the message is durably in the mailbox. Whatever cuts a session short leaves the client
  without an answer, so it sends again, and the delivery key knows the same bytes again.
- So no byte may be put in front of a message that differs from one attempt to the next: no Received line with a time
  or an id of ours. `Return-Path`, which final delivery owes (RFC 5321 §4.4), says the sender and nothing else.
- A message is read only after its bytes were granted by the budget that all sessions share. Allowed is twice its
  declared size (a client may have counted a line's end as one byte), or the most there may be; granted is twice that,
  since a message is held as it comes and once more as it is stored.
- A message ends with CRLF . CRLF and with nothing else, so nobody hides a second one behind a bare LF.

Not a library: those at hand are clients only (smtpproto) or bound to asyncio (aiosmtpd), and one that answers once for
all recipients is not LMTP.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio

from moverq.errors import MoveError, leaves
from moverq.flow.byte_budget import ByteBudget
from moverq.flow.log import log
from moverq.limits import Limits
from moverq.lmtp.command import Command, Refusal, parse_command
from moverq.lmtp.reply import Reply, multiline, reply_for

RECEIVE_BYTES = 64 << 10
LINE_BYTES_MAX = 4096
"""A command with its parameters; RFC 5321 asks for 512 and what extensions add."""
MISTAKES_MAX = 20
"""Commands refused in a row before the client is sent away."""
END = b"\r\n.\r\n"

Deliver = Callable[[str, bytes], Awaitable[bool]]
"""The message of this sender is durably in one recipient's mailbox; False: it was there already. Raises `MoveError`."""
FindMailbox = Callable[[str], Awaitable[Deliver]]
"""How to deliver to this address. Raises `NotFound` where there is no such recipient."""


class _Gone(Exception):
    """The client is not there any more, or has been silent for too long."""


@attrs.define
class _Transaction:
    """From MAIL to the end of DATA."""

    sender: str
    size: int | None
    utf8: bool
    recipients: list[tuple[str, Deliver]] = attrs.field(factory=list)


@attrs.define(eq=False)
class LmtpSession:
    """One connection. `run` it once; `stop` it from another task."""

    stream: trio.abc.Stream
    name: str
    """Our own host name."""
    _find: FindMailbox
    _budget: ByteBudget
    _limits: Limits
    _buffer: bytearray = attrs.field(factory=bytearray)
    _replies: bytearray = attrs.field(factory=bytearray)
    _greeted: bool = False
    _transaction: _Transaction | None = None
    _mistakes: int = 0
    _stopping: bool = False
    _waiting: trio.CancelScope | None = None
    """While nothing but the client's next command is waited for."""

    def stop(self) -> None:
        """Leave before the next command; a message that is being taken is taken, and answered, first."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self) -> None:
        """The session, from the greeting to its end.

        Cancelled: what was not answered is not known to have been delivered; the client sends it again.
        """
        self._say(Reply(220, "", f"{self.name} LMTP moverq"))
        try:
            while await self._one_command():
                pass
            await self._flush()
        except _Gone:
            pass

    async def _one_command(self) -> bool:
        """False: the session ends here."""
        line = await self._next_line()
        if line is None:
            self._say(Reply(421, "4.3.2", f"{self.name} is stopping; come again"))
            return False
        try:
            utf8 = self._transaction is not None and self._transaction.utf8
            going_on = await self._do(parse_command(line, utf8=utf8))
        except Refusal as refusal:
            self._say(refusal.reply)
            self._mistakes += 1
            if self._mistakes >= MISTAKES_MAX:
                self._say(Reply(421, "4.7.0", "too many mistakes"))
                return False
            return True
        self._mistakes = 0
        return going_on

    async def _do(self, command: Command) -> bool:
        match command.verb:
            case "LHLO":
                self._greeted, self._transaction = True, None
                size = f"SIZE {self._limits.lmtp_message_bytes_max}"
                offers = ["PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", size]
                self._replies += multiline(250, [self.name, *offers])
            case "MAIL":
                self._mail(command)
            case "RCPT":
                await self._rcpt(command)
            case "DATA":
                await self._data()
            case "RSET":
                self._transaction = None
                self._say(Reply(250, "2.0.0", "as if nothing had been said"))
            case "NOOP":
                self._say(Reply(250, "2.0.0", "yes"))
            case "VRFY":
                self._say(Reply(252, "2.5.0", "RCPT tells"))
            case _:
                self._say(Reply(221, "2.0.0", "good bye"))
                return False
        return True

    def _mail(self, command: Command) -> None:
        most = self._limits.lmtp_message_bytes_max
        if not self._greeted:
            raise Refusal(Reply(503, "5.5.1", "say LHLO first"))
        if self._transaction is not None:
            raise Refusal(Reply(503, "5.5.1", "one sender at a time"))
        if command.size is not None and command.size > most:
            raise Refusal(Reply(552, "5.3.4", f"a message has at most {most} bytes here"))
        self._transaction = _Transaction(command.address, command.size, command.utf8)
        self._say(Reply(250, "2.1.0", "sender taken"))

    async def _rcpt(self, command: Command) -> None:
        transaction = self._transaction
        if transaction is None:
            raise Refusal(Reply(503, "5.5.1", "say MAIL first"))
        if len(transaction.recipients) >= self._limits.lmtp_recipients_max:
            self._say(Reply(452, "4.5.3", "too many recipients for one message; the rest in another one"))
            return
        try:
            deliver = await self._find(command.address)
        except Exception as error:
            self._say(self._told(command.address, error))
        else:
            transaction.recipients.append((command.address, deliver))
            self._say(Reply(250, "2.1.5", "recipient taken"))

    async def _data(self) -> None:
        transaction = self._transaction
        if transaction is None:
            raise Refusal(Reply(503, "5.5.1", "say MAIL first"))
        if not transaction.recipients:
            raise Refusal(Reply(503, "5.5.1", "there is no recipient"))
        allowed = self._limits.lmtp_message_bytes_max
        if transaction.size is not None:
            allowed = min(allowed, 2 * transaction.size + RECEIVE_BYTES)
        await self._flush()
        async with self._budget.holding(2 * allowed):
            self._say(Reply(354, "", "go on, and end with a dot on a line of its own"))
            content = await self._message(transaction.sender, allowed)
            self._transaction = None
            if content is None:
                for recipient, _ in transaction.recipients:
                    self._say(Reply(552, "5.3.4", f"<{recipient}> the message is larger than declared, or allowed"))
            else:
                await self._deliver(transaction, content)
        await self._flush()

    async def _message(self, sender: str, bytes_max: int) -> bytes | None:
        """The message as it is kept, or None where it is too large; read to its end in any case."""
        # The line in front makes the first line a line like the others: behind a CRLF.
        front = f"Return-Path: <{sender}>\r\n".encode()
        message = bytearray(front)
        searched, too_large = 0, False
        while True:
            message += self._buffer
            self._buffer.clear()
            end = message.find(END, max(0, searched - len(END)))
            if end >= 0:
                break
            searched = len(message)
            if searched - len(front) > bytes_max + len(END):
                too_large = True
            if too_large:
                del message[: -len(END)]
                searched = 0
            self._buffer += await self._receive()
        self._buffer += message[end + len(END) :]
        del message[end + 2 :]
        if too_large or len(message) - len(front) > bytes_max:
            return None
        content = bytes(message)
        message.clear()
        content = content.replace(b"\r\n.", b"\r\n")
        if content[len(front) : len(front) + 12].lower() == b"return-path:":
            content = content[len(front) :]  # the MTA was told to put it there
        return content

    async def _deliver(self, transaction: _Transaction, content: bytes) -> None:
        """To all of them at once, so that one commit takes them; answered in the order they were named."""
        answers: list[Reply | None] = [None] * len(transaction.recipients)

        async def one(number: int, recipient: str, deliver: Deliver) -> None:
            try:
                added = await deliver(transaction.sender, content)
            except Exception as error:
                answers[number] = self._told(recipient, error)
                return
            answers[number] = Reply(250, "2.1.5", f"<{recipient}> " + ("delivered" if added else "delivered before"))
            log("moverq.lmtp").info(
                "delivered", recipient=recipient, sender=transaction.sender, bytes=len(content), duplicate=not added
            )

        # In the nursery: a delivery for each recipient; each ends by itself and keeps its error to itself.
        async with trio.open_nursery() as nursery:
            for number, (recipient, deliver) in enumerate(transaction.recipients):
                nursery.start_soon(one, number, recipient, deliver)
        for answer in answers:
            assert answer is not None
            self._say(answer)

    def _told(self, recipient: str, error: Exception) -> Reply:
        """What the client hears of an error, and the operator."""
        reply = reply_for(recipient, error)
        told = log("moverq.lmtp")
        if all(isinstance(leaf, MoveError) for leaf in leaves(error)):
            told.warning("not delivered", recipient=recipient, reply=f"{reply.code} {reply.enhanced}", why=str(error))
        else:
            told.error("not delivered, a bug", recipient=recipient, exc_info=error)
        return reply

    # ---- bytes

    def _say(self, reply: Reply) -> None:
        self._replies += bytes(reply)

    async def _next_line(self) -> bytes | None:
        """The next command, without its end; None: we are stopping."""
        skipping = False
        searched = 0
        while not self._stopping:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end]).removesuffix(b"\r")
                del self._buffer[: end + 1]
                if not skipping and len(line) <= LINE_BYTES_MAX:
                    return line
                self._say(Reply(500, "5.5.2", "a line is too long"))
                skipping, searched = False, 0
                continue
            searched = len(self._buffer)
            if searched > LINE_BYTES_MAX:
                self._buffer.clear()
                skipping, searched = True, 0
            await self._flush()
            # In the scope: the wait for the client, which `stop` ends.
            with trio.CancelScope() as self._waiting:
                self._buffer += await self._receive()
            self._waiting = None
        return None

    async def _receive(self) -> bytes:
        """More bytes of the client, who has all replies by then. Raises `_Gone`."""
        await self._flush()
        with trio.move_on_after(self._limits.lmtp_idle_s):
            try:
                data = await self.stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise _Gone from None
            if not data:
                raise _Gone
            return bytes(data)
        self._say(Reply(421, "4.4.2", "no word for too long"))
        await self._flush()
        raise _Gone

    async def _flush(self) -> None:
        if self._replies:
            data = bytes(self._replies)
            self._replies.clear()
            try:
                with trio.fail_after(self._limits.lmtp_idle_s):
                    await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                raise _Gone from None
