"""What mail systems say of a mailbox: the answers of an IMAP server, and what lies in a live Maildir.

Of IMAP a whole exchange is judged, from the server's side: the client asks what it always asks, and hears the input.
It ends with values that a mailbox can have, or in an error that means this server and not the mover.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio

from moverq.endpoints.files.subscriptions import decode_subscriptions
from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.listing import list_folders, look_into
from moverq.endpoints.imap.metadata import read_annotations
from moverq.endpoints.imap.namespaces import Namespaces, namespaces_of
from moverq.endpoints.imap.quota import read_room
from moverq.endpoints.imap.reading import read_bodies
from moverq.endpoints.imap.wire import WireError, uids_in
from moverq.endpoints.maildir import names
from moverq.endpoints.maildir.side_files import decode_keywords, decode_uid_list
from moverq.endpoints.mirrored.learned import Looks
from moverq.endpoints.mirrored.listed import Wanted
from moverq.errors import MoveError
from moverq.mailfiles.maildir import KEYWORD_LETTERS
from moverq.model.ids import FolderId
from tests.fuzz.decoder import REFUSED, TAKEN, Decoder

CAPABILITIES = frozenset(
    b"NAMESPACE CONDSTORE QRESYNC LIST-EXTENDED LIST-STATUS SPECIAL-USE OBJECTID METADATA QUOTA LITERAL+".split()
)
UIDS = (4, 5, 9)
UID_END, ROW_END = 1 << 32, 1 << 63
"""What a UID, and what a number in the mirror has to be less than."""


@attrs.define
class Heard(trio.abc.Stream):
    """A server that says the same whatever it is asked, and hangs up."""

    said: bytes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        said, self.said = self.said, b""
        return said

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


Asked = Callable[[Connection], Awaitable[None]]


def exchange(name: str, asked: Asked, *seeds: bytes) -> Decoder:
    """The server's half is the input, the first command's tag is M1."""

    async def listen(data: bytes) -> str:
        connection = Connection("server", Heard(data), answer_s=3600.0, capabilities=CAPABILITIES)
        try:
            await asked(connection)
        except MoveError as error:
            assert str(error)
            return REFUSED
        return TAKEN

    return Decoder(name, lambda data: trio.run(listen, data), seeds)


async def ask_folders(connection: Connection) -> None:
    namespaces = await namespaces_of(connection)
    assert all(isinstance(one.prefix, bytes) for one in namespaces.all)
    for one in await list_folders(connection, Namespaces(), known={}):
        assert isinstance(one.wire, bytes)
        assert isinstance(one.mailbox_object, bytes)
        assert all(0 <= said < ROW_END for said in (one.validity or 0, one.uidnext, one.modseq, one.items))


async def ask_messages(connection: Connection) -> None:
    looks = Looks()
    wanted = [Wanted(folder_id=FolderId(bytes(16)), wire=b"INBOX", modseq=modseq) for modseq in (0, 7)]
    await look_into(connection, wanted, on_look=looks.keep)
    for look in looks:
        assert all(0 <= said < ROW_END for said in (look.validity, look.uidnext, look.modseq, look.items))
        assert all(0 <= first <= last < ROW_END for first, last in look.gone)
        for seen in look.seen:
            assert 0 <= seen.uid < ROW_END
            assert 0 <= seen.size < ROW_END
            assert abs(seen.received_ms) < ROW_END
            assert all(isinstance(word, str) and word for word in seen.keywords)
            "".join(seen.keywords).encode()


async def ask_bodies(connection: Connection) -> None:
    found = await read_bodies(connection, b"INBOX", UIDS, validity=3)
    assert all(isinstance(content, bytes) for content in found.values())


async def ask_room(connection: Connection) -> None:
    room = await read_room(connection)
    assert all(left is None or left >= 0 for left in (room.bytes, room.items))


async def ask_annotations(connection: Connection) -> None:
    for of_folder in (await read_annotations(connection, [b"INBOX", b"Sent"])).values():
        assert all(name.startswith("/") and value.encode() is not None for name, value in of_folder.items())


# ---- Maildirs


def judge_uid_list(data: bytes) -> str:
    found = decode_uid_list(data)
    assert 0 <= found.validity < UID_END
    assert 0 <= found.uidnext < ROW_END
    assert all(0 < uid < found.uidnext for uid in found.uids.values())
    assert len(set(found.uids.values())) == len(found.uids)
    return TAKEN if found.validity else REFUSED


def judge_keywords(data: bytes) -> str:
    found = decode_keywords(data)
    assert found.keys() <= set(KEYWORD_LETTERS)
    assert all(name and name.encode() for name in found.values())
    return TAKEN if found else REFUSED


def judge_subscriptions(data: bytes) -> str:
    _, found = decode_subscriptions(data, b".")
    assert all(found)
    return TAKEN if found else REFUSED


def judge_file_name(data: bytes) -> str:
    """Whatever is done to its flags or its base, a name still says what it said of the rest."""
    name = data.replace(b"\0", b"").replace(b"/", b"")[:255] or b"."
    base, parts = names.base(name), names.parts(name)
    flags, keywords = names.said(parts.letters, {"a": "$Work"})
    assert 0 <= flags < 32
    changed = names.with_letters(name, flags, "b")
    assert names.base(changed) == base
    assert names.said(names.parts(changed).letters, {"b": "$Later"}) == (flags, ("$Later",))
    renamed = names.with_base(name, b"1.M2.host")
    assert names.parts(renamed)[1:] == parts[1:]
    for size in (names.size(name), names.mail_size(name), names.disk_size(name)):
        assert size is None or 0 <= size < ROW_END
    names.order(base)
    return TAKEN if flags or keywords else REFUSED


def judge_uid_set(data: bytes) -> str:
    try:
        found = uids_in(data, most=1 << 16)
    except WireError:
        return REFUSED
    assert len(found) <= 1 << 16
    assert all(0 <= uid < ROW_END for uid in found)
    return TAKEN


def lines(*said: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in said)


FOLDERS = lines(
    b'* NAMESPACE (("" "/")) (("Other/" "/")) NIL', b"M1 OK done",
    b'* LIST (\\HasNoChildren \\Subscribed) "/" INBOX',
    b"* STATUS INBOX (UIDVALIDITY 3 UIDNEXT 10 MESSAGES 3 HIGHESTMODSEQ 7)",
    b'* LIST (\\Sent) "/" {6}', b"Se\"nt ", b'* STATUS "Se\\"nt " (UIDVALIDITY 4 UIDNEXT 1 MESSAGES 0 HIGHESTMODSEQ 1)',
    b"M2 OK [X] done", b"* STATUS INBOX (MAILBOXID (F1))", b"M3 OK", b'* STATUS "Se\\"nt " (MAILBOXID ())', b"M4 OK",
)  # fmt: skip
LISTED = b'* %d FETCH (UID %d FLAGS (\\Seen $Work) INTERNALDATE "14-Nov-2023 22:13:20 +0100" RFC822.SIZE 512)'
EXAMINED = (
    b"* FLAGS (\\Seen)", b"* 3 EXISTS", b"* OK [UIDVALIDITY 3] .", b"* OK [UIDNEXT 10] .", b"* OK [HIGHESTMODSEQ 9] .",
)  # fmt: skip
MESSAGES = lines(
    *EXAMINED, b"M1 OK [READ-ONLY]", LISTED % (1, 4), b"* 2 FETCH (FLAGS ())", LISTED % (2, 5), b"* 3 EXPUNGE",
    b"M2 OK done",
    *EXAMINED, b"M3 OK", b"* VANISHED (EARLIER) 1:3,7", LISTED.replace(b"512", b"5 MODSEQ (9)") % (3, 9), b"M4 OK done",
)  # fmt: skip
BODIES = lines(
    *EXAMINED, b"M1 OK", b"* 1 FETCH (UID 4 BODY[] {4}", b"a\r\nb)", b'* 2 FETCH (FLAGS () BODY[] "c" UID 5)', b"M2 OK",
    *EXAMINED, b"M3 OK", b"M4 OK", b"* 3 FETCH (UID 9 RFC822.SIZE 3)", b"M5 OK", b"* 3 FETCH (UID 9 BODY[] {1}", b"d)",
    b"M6 OK",
)  # fmt: skip
ROOM = lines(b"* QUOTAROOT INBOX a b", b"* QUOTA a (STORAGE 10 512 MESSAGE 3 40)", b'* QUOTA "b" ()', b"M1 OK done")
ANNOTATED = lines(
    b'* METADATA INBOX (/private/comment "mine" /shared/vendor/x NIL)', b"M1 OK",
    b"* METADATA Sent (/shared/comment {2}", b"ab)", b"M2 OK [METADATA LONGENTRIES 9]",
)  # fmt: skip

DECODERS = (
    exchange("imap-folders", ask_folders, FOLDERS),
    exchange("imap-messages", ask_messages, MESSAGES),
    exchange("imap-bodies", ask_bodies, BODIES),
    exchange("imap-quota", ask_room, ROOM),
    exchange("imap-annotations", ask_annotations, ANNOTATED),
    Decoder("imap-uid-set", judge_uid_set, (b"1:3,7,9:8", b"4294967295")),
    Decoder(
        "uid-list", judge_uid_list,
        (b"3 V7 N12 G1\n4 W5 :1.M2.h\n9 :3.M4.h:2,S\n", b"1 7 12\n4 1.M2.h\n9 3.M4.h\n", b"3 N4\n"),
    ),
    Decoder("keywords", judge_keywords, (b"0 $Work\n1 Later\n", b"26 no\n")),
    Decoder("subscriptions", judge_subscriptions, (b"INBOX\nA.B\n", b"V\t2\n\nA\tB\n", b"\n")),
    Decoder(
        "maildir-file", judge_file_name,
        (b"17.M1P2.host,S=512,W=520:2,FSab", b"17.M1.host;2,RT,x", b"17.host:1,z", b"17.M1.host,W=3"),
    ),
)  # fmt: skip
