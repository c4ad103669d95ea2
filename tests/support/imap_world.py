"""Mailboxes on a real server to be moved: filled, changed and read by a mail client that is not ours."""

import imaplib
import random
import re
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import attrs

from tests.support.imap_servers import ImapServer

FOLDERS = ("INBOX", "Sent", "Archive/2020", "&AOQ-lter Kram", "Lists/50 %")
Message = tuple[str, str, str]
"""SHA-256 of the bytes, the flags sorted, the date."""
Mail = dict[str, Counter[Message]]
"""Every folder and what is in it, equal copies counted."""

FLAGS = ("", "\\Seen", "\\Seen \\Answered $Forwarded", "\\Deleted", "\\Flagged work \\Draft")
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)")
_LIST = re.compile(rb'(\([^)]*\)) "(.)" (.*)')
_DATE = re.compile(rb'INTERNALDATE "([^"]*)"')


@attrs.define
class Mailbox:
    """One user's mailbox, from a client's side. `close` it."""

    server: ImapServer
    user: str
    random: random.Random
    _client: imaplib.IMAP4 | None = None
    made: int = 0

    @property
    def client(self) -> imaplib.IMAP4:
        if self._client is None:
            self._client = self.server.login(self.user)
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.shutdown()
            self._client = None

    def fill(self, messages: int, *, folders: tuple[str, ...] = FOLDERS) -> None:
        for folder in folders:
            if folder != "INBOX":
                self._ok(self.client.create(self._word(folder)))
                self._ok(self.client.subscribe(self._word(folder)))
        for _ in range(messages):
            self.add(self.random.choice(folders))

    def add(self, folder: str = "INBOX", content: bytes | None = None) -> None:
        self.made += 1
        if content is None:
            body = b"".join(b"line %d\r\n" % n for n in range(self.random.randrange(200)))
            head = b"Message-ID: <%d@%s>\r\nSubject: message %d\r\n\r\n" % (self.made, self.user.encode(), self.made)
            content = head + body
        flags = self.random.choice(FLAGS)
        date = imaplib.Time2Internaldate(1_400_000_000 + self.random.randrange(300_000_000))
        self._ok(self.client.append(self._word(folder), f"({flags})", date, content))

    def uids(self, folder: str) -> list[str]:
        self._ok(self.client.select(self._word(folder)))
        return [uid.decode() for uid in self._ok(self.client.uid("SEARCH", "ALL"))[0].split()]

    def flag(self, folder: str, flags: str = "\\Seen later") -> None:
        uids = self.uids(folder)
        if uids:
            self._ok(self.client.uid("STORE", self.random.choice(uids), "FLAGS", f"({flags})"))
        self.client.unselect()

    def move(self, folder: str, target: str) -> None:
        uids = self.uids(folder)
        if uids:
            self._ok(self.client.uid("MOVE", self.random.choice(uids), self._word(target)))
        self.client.unselect()

    def expunge(self, folder: str) -> None:
        uids = self.uids(folder)
        if uids:
            uid = self.random.choice(uids)
            self._ok(self.client.uid("STORE", uid, "+FLAGS", "(\\Deleted)"))
            self._ok(self.client.uid("EXPUNGE", uid))
        self.client.unselect()

    def rename(self, old: str, new: str) -> None:
        self._ok(self.client.rename(self._word(old), self._word(new)))

    def mail(self, form: Callable[[bytes], bytes] = bytes) -> Mail:
        """Everything that is there, by a connection of its own; of each message's bytes the hash of their `form`."""
        client = self.server.login(self.user)
        try:
            found: Mail = {}
            for line in filter(None, self._ok(client.list())):
                attributes, separator, name = _list(line)
                if b"Noselect" in attributes or b"NonExistent" in attributes:
                    continue
                folder = name.decode()
                found[folder.replace(separator.decode(), "/")] = _messages(client, folder, form)
            return found
        finally:
            client.shutdown()

    def _word(self, folder: str) -> str:
        return quoted(folder.replace("/", self.server.separator))

    @staticmethod
    def _ok(answer: tuple[str, list[Any]]) -> list[Any]:
        assert answer[0] == "OK", answer
        return answer[1]


def _messages(client: imaplib.IMAP4, folder: str, form: Callable[[bytes], bytes]) -> "Counter[Message]":
    found: Counter[Message] = Counter()
    status, (count,) = client.select(quoted(folder), readonly=True)
    assert status == "OK", (folder, count)
    if int(count):
        _, answer = client.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")
        for part, following in zip(answer, [*answer[1:], b""], strict=True):
            if not isinstance(part, tuple):
                continue
            words = part[0] + (following if isinstance(following, bytes) else b"")
            flags, date = _FLAGS.search(words), _DATE.search(words)
            assert flags is not None
            assert date is not None
            kept = sorted(flag for flag in flags[1].decode().split() if flag != "\\Recent")
            instant = imaplib.Internaldate2tuple(b'INTERNALDATE "' + date[1] + b'"')
            found[sha256(form(part[1])).hexdigest()[:16], " ".join(kept), str(instant and tuple(instant)[:6])] += 1
    client.unselect()
    return found


def _list(line: bytes | tuple[bytes, bytes]) -> tuple[bytes, bytes, bytes]:
    """Attributes, separator and name. A name that came as a literal stands beside its line."""
    head, literal = line if isinstance(line, tuple) else (line, None)
    found = _LIST.match(head)
    assert found is not None, line
    name = found[3].strip(b'"').replace(b'\\"', b'"').replace(b"\\\\", b"\\")
    return found[1], found[2], name if literal is None else literal


def quoted(folder: str) -> str:
    return '"' + folder.replace("\\", "\\\\").replace('"', '\\"') + '"'
