"""A small IMAP server in this process, which does wrong what it is told to: quirks that no real one shows on demand.

It keeps one user's folders in memory and speaks enough of IMAP4rev1 for the mover: with or without UIDPLUS, CONDSTORE,
MULTIAPPEND and the rest, as its `capabilities` say. A `Quirk` sees every answer before it is sent, and may change it,
hold it back, or cut the connection, at any byte.
"""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from moverq.endpoints.mirrored.utf7 import from_utf7, to_utf7

PLAIN = "IMAP4rev1 AUTH=PLAIN NAMESPACE"
RICH = f"{PLAIN} LITERAL+ UIDPLUS MULTIAPPEND CONDSTORE QRESYNC ENABLE MOVE LIST-EXTENDED LIST-STATUS UNSELECT SASL-IR"
_LITERAL = re.compile(rb"\{(\d+)(\+?)\}$")
_NAME = rb'(?:"((?:[^"\\]|\\.)*)"|(\S+))'


class Cut(Exception):
    """The connection ends here."""


@attrs.define(eq=False)
class Mail:
    uid: int
    content: bytes
    flags: set[str]
    date: str
    modseq: int


@attrs.define(eq=False)
class Folder:
    validity: int
    uidnext: int = 1
    mail: list[Mail] = attrs.Factory(list)
    subscribed: bool = True


@attrs.define(eq=False)
class Quirk:
    """Does nothing. What a test makes of it: `answer` changes lines, `cut_after` ends the connection in mid-answer."""

    answer: Callable[[bytes, bytes], bytes] | None = None
    """(the command's line, the answer's bytes) ─▶ the bytes that are sent."""
    cut_after: int | None = None
    """The connection ends after so many bytes of answers, counted over all connections; once."""
    sent: int = 0
    commands: list[bytes] = attrs.Factory(list)


@attrs.define(eq=False)
class FakeImap:
    """The server. `port` it listens at; `folders` what it holds."""

    capabilities: str = RICH
    quirk: Quirk = attrs.field(factory=Quirk)
    folders: dict[str, Folder] = attrs.field(factory=lambda: {"INBOX": Folder(1)})
    refuse_append: Callable[[bytes], str | None] = lambda content: None
    keeps_before_refused: bool = False
    """Of a MULTIAPPEND that it refuses for one message, those before."""
    literal_bytes_max: int | None = None
    """To a larger one it says no; one that comes unasked ends the connection."""
    refuse_name: Callable[[str], bool] = lambda name: False
    is_unicode: bool = False
    """`folders` have their names in Unicode, said as each connection wants it; else as they are on the wire."""
    locks_for_append: bool = False
    """From the first byte of an APPEND to its last, as one does that keeps an mbox. Who comes second is first."""
    appends_meet: int = 0
    """None is read before so many have been under way at once."""
    connections_max: int | None = None
    """So many of a user; one more is told `one_too_many`: a greeting, or the answer to its login."""
    one_too_many: bytes = b"NO [LIMIT] too many connections"
    connections: int = 0
    """Logged in at present."""
    refused: int = 0
    """Connections that were one too many."""
    appending: int = 0
    appending_max: int = 0
    """APPENDs that were under way at once."""
    port: int = 0
    _lock: trio.Lock = attrs.field(factory=trio.Lock)
    _appends: trio.Condition = attrs.field(factory=trio.Condition)
    _modseq: int = 1
    _validity: int = 10

    def tick(self) -> int:
        self._modseq += 1
        return self._modseq

    def add(self, folder: str, content: bytes, *, flags: str = "", date: str = "01-Jan-2020 00:00:00 +0000") -> Mail:
        if folder not in self.folders:
            self._validity += 1
            self.folders[folder] = Folder(self._validity)
        place = self.folders[folder]
        mail = Mail(place.uidnext, content, set(flags.split()), date, self.tick())
        place.uidnext += 1
        place.mail.append(mail)
        return mail

    def contents(self) -> dict[str, list[bytes]]:
        return {
            name: sorted(mail.content for mail in folder.mail) for name, folder in self.folders.items() if folder.mail
        }

    @property
    def url(self) -> str:
        return f"imap://admin@127.0.0.1:{self.port}/?tls=none&password-env=FAKE_PASSWORD"

    def has(self, name: str) -> bool:
        return name in self.capabilities.split()

    @asynccontextmanager
    async def append_under_way(self) -> AsyncIterator[None]:
        self.appending += 1
        self.appending_max = max(self.appending, self.appending_max)
        try:
            async with self._appends:
                self._appends.notify_all()
                while self.appending_max < self.appends_meet:
                    await self._appends.wait()
            if self.locks_for_append:
                if self.appending == 1:
                    await trio.sleep(0.05)
                async with self._lock:
                    yield
            else:
                yield
        finally:
            self.appending -= 1


@asynccontextmanager
async def open_fake(server: FakeImap) -> AsyncIterator[FakeImap]:
    """The server listens until the end."""
    # In the nursery: the listener and a task a connection, cancelled at the end.
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(server.port, host="127.0.0.1")
        server.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, lambda stream: _Session(server, stream).run(), [listener])
        yield server
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class _Session:
    """One connection."""

    server: FakeImap
    stream: trio.SocketStream
    _buffer: bytes = b""
    _selected: str | None = None
    _enabled: bool = False
    _utf8: bool = False
    _counts: bool = False

    async def run(self) -> None:
        try:
            await self._greet()
            while True:
                await self._command()
        except (Cut, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.server.connections -= self._counts
            await trio.aclose_forcefully(self.stream)

    async def _greet(self) -> None:
        if self.server.one_too_many.startswith(b"*"):
            refusal = self._enter()
            if refusal:
                await self._send(b"", refusal + b"\r\n")
                raise Cut
        await self._send(b"", b"* OK [CAPABILITY " + self.server.capabilities.encode() + b"] hello\r\n")

    def _enter(self) -> bytes:
        """Empty, or why not."""
        server = self.server
        if server.connections_max is not None and server.connections >= server.connections_max:
            server.refused += 1
            return server.one_too_many
        server.connections += 1
        self._counts = True
        return b""

    async def _send(self, command: bytes, data: bytes) -> None:
        quirk = self.server.quirk
        if quirk.answer is not None:
            data = quirk.answer(command, data)
        if quirk.cut_after is not None and quirk.sent + len(data) > quirk.cut_after:
            await self.stream.send_all(data[: quirk.cut_after - quirk.sent])
            quirk.cut_after = None
            raise Cut
        quirk.sent += len(data)
        await self.stream.send_all(data)

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise Cut
        self._buffer += data

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            await self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def _command(self) -> None:
        line = await self._line()
        if b" APPEND " in line[:20]:
            async with self.server.append_under_way():
                await self._rest_of(line)
        else:
            await self._rest_of(line)

    async def _rest_of(self, line: bytes) -> None:
        literals: list[bytes] = []
        while (found := _LITERAL.search(line)) is not None:
            size = int(found[1])
            if self.server.literal_bytes_max is not None and size > self.server.literal_bytes_max:
                if found[2]:
                    raise Cut
                await self._send(line, line.partition(b" ")[0] + b" NO [TOOBIG] not so large\r\n")
                return
            if not found[2]:
                await self._send(line, b"+ \r\n")
            while len(self._buffer) < size:
                await self._more()
            literals.append(self._buffer[:size])
            self._buffer = self._buffer[size:]
            line = line[: found.start()] + b"{}" + await self._line()
        tag, _, rest = line.partition(b" ")
        self.server.quirk.commands.append(rest)
        verb = rest.split(b" ")[0].upper()
        if verb == b"AUTHENTICATE" and len(rest.split(b" ")) < 3:
            await self._send(rest, b"+ \r\n")
            await self._line()
        name = f"_{(b' '.join(rest.split(b' ')[:2]) if verb == b'UID' else verb).decode().lower().replace(' ', '_')}"
        act = getattr(self, name, None)
        if verb in (b"UID", b"EXPUNGE") and self._selected is None:
            act = None
        if act is None:
            await self._send(rest, tag + b" BAD what?\r\n")
            return
        untagged, status = act(rest, literals)
        await self._send(rest, untagged + tag + b" " + status + b"\r\n")

    # ---- commands: (untagged, status)

    def _ok(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return b"", b"OK done"

    def _authenticate(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return b"", (b"" if self._counts else self._enter()) or b"OK done"

    _login = _authenticate
    _noop = _id = _subscribe = _unsubscribe = _ok

    def _unselect(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        self._selected = None
        return b"", b"OK done"

    _close = _unselect

    def _capability(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return b"* CAPABILITY " + self.server.capabilities.encode() + b"\r\n", b"OK done"

    def _enable(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        self._enabled = True
        self._utf8 = b"UTF8=ACCEPT" in rest
        return b"* ENABLED " + rest.partition(b" ")[2] + b"\r\n", b"OK done"

    def _namespace(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return b'* NAMESPACE (("" "/")) NIL NIL\r\n', b"OK done"

    def _list(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        out = b""
        asked = re.match(rb'LIST "[^"]*" ' + _NAME, rest)
        pattern = (asked[1] or asked[2]) if asked is not None else b"*"
        if pattern == b"{}":
            pattern = literals.pop(0)
        for name in sorted(self.server.folders):
            if pattern not in (b"*", self._shown(name)):
                continue
            out += b'* LIST (\\Subscribed) "/" "' + self._shown(name) + b'"\r\n'
            if b"STATUS" in rest:
                out += self._status_of(name)
        return out, b"OK done"

    def _lsub(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return b"".join(b'* LSUB () "/" "' + self._shown(name) + b'"\r\n' for name in self.server.folders), b"OK done"

    def _status_of(self, name: str) -> bytes:
        folder = self.server.folders[name]
        words = b"UIDVALIDITY %d UIDNEXT %d MESSAGES %d" % (folder.validity, folder.uidnext, len(folder.mail))
        if self.server.has("CONDSTORE"):
            words += b" HIGHESTMODSEQ %d" % self._highest(folder)
        return b'* STATUS "' + self._shown(name) + b'" (' + words + b")\r\n"

    def _highest(self, folder: Folder) -> int:
        return self.server._modseq

    def _status(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        name = self._name(rest, literals)
        if name not in self.server.folders:
            return b"", b"NO [NONEXISTENT] no such folder"
        return self._status_of(name), b"OK done"

    def _select(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        name = self._name(rest, literals)
        self._selected = None
        if name not in self.server.folders:
            return b"", b"NO [NONEXISTENT] no such folder"
        self._selected = name
        folder = self.server.folders[name]
        out = b"* %d EXISTS\r\n* OK [UIDVALIDITY %d] \r\n* OK [UIDNEXT %d] \r\n" % (
            len(folder.mail),
            folder.validity,
            folder.uidnext,
        )
        out += b"* OK [PERMANENTFLAGS (\\Seen \\Deleted \\*)] \r\n"
        if self.server.has("CONDSTORE"):
            out += b"* OK [HIGHESTMODSEQ %d]\r\n" % self._highest(folder)
        return out, b"OK [READ-WRITE] done"

    _examine = _select

    def _create(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        name = self._name(rest, literals)
        if name in self.server.folders:
            return b"", b"NO [ALREADYEXISTS] it is there"
        if self.server.refuse_name(name):
            return b"", b"NO [CANNOT] no such name here"
        self.server._validity += 1
        self.server.folders[name] = Folder(self.server._validity)
        return b"", b"OK done"

    def _rename(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        before, after = re.findall(rb'"([^"]*)"', rest)
        folders = self.server.folders
        if before.decode() not in folders or after.decode() in folders:
            return b"", b"NO it cannot be"
        folders[after.decode()] = folders.pop(before.decode())
        return b"", b"OK done"

    def _delete(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        self.server.folders.pop(self._name(rest, literals), None)
        return b"", b"OK done"

    def _append(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        name = self._name(rest, literals)
        if name not in self.server.folders:
            return b"", b"NO [TRYCREATE] no such folder"
        if len(literals) > 1 and not self.server.has("MULTIAPPEND"):
            return b"", b"BAD one at a time"
        heads = re.findall(rb'\(([^)]*)\) "([^"]*)" (UTF8 \(~)?\{\}', rest)
        for at, (content, (*_, is_utf8)) in enumerate(zip(literals, heads, strict=True)):
            why = self.server.refuse_append(content)
            if self._utf8 and not is_utf8 and not content.partition(b"\r\n\r\n")[0].isascii():
                why = "8-bit headers without UTF8"
            if why is not None:
                for kept, (flags, date, _) in zip(
                    literals[: at * self.server.keeps_before_refused], heads, strict=False
                ):
                    self.server.add(name, kept, flags=flags.decode(), date=date.decode())
                return b"", b"NO " + why.encode()
        made = [
            self.server.add(name, content, flags=flags.decode(), date=date.decode())
            for (flags, date, _), content in zip(heads, literals, strict=True)
        ]
        if not self.server.has("UIDPLUS"):
            return b"", b"OK done"
        validity = self.server.folders[name].validity
        return b"", b"OK [APPENDUID %d %d:%d] done" % (validity, made[0].uid, made[-1].uid)

    def _uid_fetch(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        assert self._selected is not None
        folder = self.server.folders[self._selected]
        since = re.search(rb"CHANGEDSINCE (\d+)", rest)
        out = b""
        for number, mail in enumerate(folder.mail, 1):
            if not _is_in(mail.uid, rest.split(b" ")[2]) or (since is not None and mail.modseq <= int(since[1])):
                continue
            words = b"UID %d" % mail.uid
            if b"FLAGS" in rest:
                words += b" FLAGS (" + " ".join(sorted(mail.flags)).encode() + b")"
            if b"INTERNALDATE" in rest:
                words += b' INTERNALDATE "' + mail.date.encode() + b'"'
            if b"RFC822.SIZE" in rest:
                words += b" RFC822.SIZE %d" % len(mail.content)
            if b"BODY.PEEK[]" in rest:
                words += b" BODY[] {%d}\r\n" % len(mail.content) + mail.content
            out += b"* %d FETCH (" % number + words + b")\r\n"
        return out, b"OK done"

    def _uid_store(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        assert self._selected is not None
        flags = {flag.decode() for flag in rest.partition(b"(")[2].rstrip(b")").split()}
        for mail in self.server.folders[self._selected].mail:
            if _is_in(mail.uid, rest.split(b" ")[2]):
                before = set(mail.flags)
                if b"+FLAGS" in rest:
                    mail.flags |= flags
                elif b"-FLAGS" in rest:
                    mail.flags -= flags
                else:
                    mail.flags = set(flags)
                if mail.flags != before:
                    mail.modseq = self.server.tick()
        return b"", b"OK done"

    def _uid_search(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        assert self._selected is not None
        found = [b"%d" % mail.uid for mail in self.server.folders[self._selected].mail if "\\Deleted" in mail.flags]
        return b"* SEARCH " + b" ".join(found) + b"\r\n", b"OK done"

    def _uid_expunge(self, rest: bytes, literals: list[bytes]) -> tuple[bytes, bytes]:
        return self._expunge(rest, literals, within=rest.split(b" ")[2])

    def _expunge(self, rest: bytes, literals: list[bytes], within: bytes = b"1:*") -> tuple[bytes, bytes]:
        assert self._selected is not None
        folder = self.server.folders[self._selected]
        folder.mail = [m for m in folder.mail if "\\Deleted" not in m.flags or not _is_in(m.uid, within)]
        self.server.tick()
        return b"", b"OK done"

    def _shown(self, name: str) -> bytes:
        return to_utf7(name) if self.server.is_unicode and not self._utf8 else name.encode()

    def _name(self, rest: bytes, literals: list[bytes]) -> str:
        found = re.match(rb"\S+ " + _NAME, rest)
        assert found is not None
        name: bytes = found[1] or found[2]
        if name == b"{}":
            name = literals.pop(0)
        return from_utf7(name) if self.server.is_unicode and not self._utf8 else name.decode()


def _is_in(uid: int, text: bytes) -> bool:
    for run in text.split(b","):
        low, _, high = run.partition(b":")
        if int(low) <= uid and (high == b"*" or uid <= int(high or low)):
            return True
    return False
