"""What a server says of its folders, and of the messages in them: commands out, values in. Decides nothing.

    list_folders    one LIST with RETURN (SUBSCRIBED SPECIAL-USE STATUS (…)), or what the server can do instead
    look_into       EXAMINE and one UID FETCH for each of several folders, all sent ahead

A look costs what has changed: `UID FETCH 1:* (…) (CHANGEDSINCE m VANISHED)` where the server has QRESYNC, without
VANISHED where it has CONDSTORE alone, and everything there is where it has neither.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from moverq.endpoints.imap.connection import Command, Connection, MailboxName, Refused, error_of, shown, words
from moverq.endpoints.imap.namespaces import Namespaces
from moverq.endpoints.imap.wire import Response, date_ms, midnight_ms, number, pairs, runs_in, said
from moverq.endpoints.mirrored.learned import Look, OnLook, Seen
from moverq.endpoints.mirrored.listed import PART_ITEMS, Known, Listed, Wanted
from moverq.errors import EndpointBroken, EndpointBusy, MoveError
from moverq.model.change import Flag

SPECIAL_USES: Final = frozenset(
    {"\\All", "\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash", "\\Important"}
)
_SPECIAL_BY_LOWER: Final = {name.lower(): name for name in SPECIAL_USES}
_FLAGS: Final = {
    b"\\seen": int(Flag.SEEN),
    b"\\answered": int(Flag.ANSWERED),
    b"\\flagged": int(Flag.FLAGGED),
    b"\\deleted": int(Flag.DELETED),
    b"\\draft": int(Flag.DRAFT),
}
ALL_FLAGS: Final = sum(_FLAGS.values())
_LINE: Final = (
    rb"\* \d+ FETCH \(UID <\d{1,10}> FLAGS \(<[^()\"{\r\n]*>\) INTERNALDATE "
    rb'"<[ 0-3]\d-(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)-[12]\d{3}> <\d\d>:<\d\d>:<\d\d> <[+-]\d{4}>" '
    rb"RFC822\.SIZE <\d{1,18}>(?: MODSEQ \(\d+\))?\)\r\n"
)
"""The usual line of a listing: everything in the order asked for. It is read without being taken apart."""
_AS_ASKED: Final = re.compile(_LINE.replace(b"<", b"(").replace(b">", b")"))
_ALL_AS_ASKED: Final = re.compile(rb"(?:" + _LINE.replace(b"<", b"").replace(b">", b"") + rb")+")
"""As many of them as stand together."""
_FETCH: Final = re.compile(rb"\* \d+ FETCH ", re.IGNORECASE)
_WHOLE: Final = frozenset((b"UID", b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE"))
_EXPUNGE: Final = re.compile(rb"\* \d+ EXPUNGE", re.IGNORECASE)
_TWO_DIGITS: Final = {b"%02d" % n: n for n in range(100)}
AHEAD: Final = 8
"""Looks that are sent before the first is answered."""
SHORT_S: Final = 60.0


# ---- folders


async def list_folders(connection: Connection, namespaces: Namespaces, *, known: Known | None = None) -> list[Listed]:
    """Every folder of the user's own, with its status, and its MAILBOXID where `known` is given.

    The MAILBOXID is asked for one by one, where the status is not the known one: a renamed folder has another. Not by
    LIST: there Cyrus 3.6 says it of a folder that was renamed with bytes from anywhere, unreadable and unbalanced.

    Raises: EndpointUnavailable, EndpointBusy, EndpointBroken, RequestRefused.
    """
    found: dict[bytes, Listed] = {}

    def take(response: Response) -> None:
        kind, *rest = words(response)
        match bytes(kind).upper():
            case b"LIST":
                wire = connection.mailbox_named(rest[2])
                if namespaces.is_users(wire):
                    _note_list(found.setdefault(wire, Listed(wire=wire)), rest)
            case b"LSUB":
                wire = connection.mailbox_named(rest[2])
                if wire in found:
                    found[wire].subscribed = True
            case b"STATUS":
                wire = connection.mailbox_named(rest[0])
                if wire in found:
                    _note_status(found[wire], rest[1] if len(rest) > 1 and isinstance(rest[1], list) else [])

    status = [b"UIDVALIDITY", b"UIDNEXT", b"MESSAGES"]
    if connection.has(b"CONDSTORE") or connection.has(b"QRESYNC"):
        status.append(b"HIGHESTMODSEQ")
    items = b"(" + b" ".join(status) + b")"
    try:
        if connection.has(b"LIST-EXTENDED", b"LIST-STATUS"):
            returned = b"SUBSCRIBED " + (b"SPECIAL-USE " if connection.has(b"SPECIAL-USE") else b"")
            await connection.run(b'LIST "" "*" RETURN (' + returned + b"STATUS " + items + b")", take=take)
        else:
            await connection.run(b'LIST "" "*"', take=take)
            await connection.run(b'LSUB "" "*"', take=take)
        silent = [one for one in found.values() if one.selectable and one.validity is None]
        await _ask_status(connection, silent, items, take, found)
        if connection.has(b"OBJECTID") and known is not None:
            for one in found.values():
                status_then, one.mailbox_object = known.get(one.wire, (None, b""))
                if one.status is None or one.status != status_then:
                    one.mailbox_object = b""
            unknown = [one for one in found.values() if one.selectable and not one.mailbox_object]
            await _ask_status(connection, unknown, b"(MAILBOXID)", take, found)
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing="list its folders") from refused
    for one in list(found.values()):
        if one.selectable and not one.validity:
            raise _nameless(connection, one.wire)
        if not one.selectable and _is_root(one.wire, namespaces.naming.separator):
            del found[one.wire]
    return sorted(found.values(), key=lambda one: one.wire)


def _is_root(wire: bytes, separator: bytes | None) -> bool:
    """Is this no folder's name, but that of a place where folders are? Some servers list `""`, and `Work/` beside
    `Work/in`."""
    return not wire or (separator is not None and wire.endswith(separator))


async def status_of(connection: Connection, wire: bytes) -> Listed | None:
    """The folder, and how much is in it. None: it went.

    Raises: EndpointUnavailable, EndpointBusy, EndpointBroken, RequestRefused.
    """
    found = {wire: Listed(wire=wire)}

    def take(response: Response) -> None:
        kind, *rest = words(response)
        if bytes(kind).upper() == b"STATUS" and connection.mailbox_named(rest[0]) == wire:
            _note_status(found[wire], rest[1])

    await _ask_status(connection, [found[wire]], b"(UIDVALIDITY UIDNEXT MESSAGES)", take, found)
    return found.get(wire)


async def _ask_status(
    connection: Connection,
    folders: Sequence[Listed],
    items: bytes,
    take: Callable[[Response], None],
    found: dict[bytes, Listed],
) -> None:
    """One that went meanwhile is not among the found any more."""
    asked = [await connection.start(b"STATUS ", MailboxName(one.wire), b" " + items, take=take) for one in folders]
    for one, refused in zip(folders, await connection.refusals(asked), strict=True):
        if refused is not None:
            await check_gone(connection, one.wire, refused)
            found.pop(one.wire, None)


async def check_gone(connection: Connection, wire: bytes, refused: Refused) -> None:
    """The folder that the server would not open is not there: the server says so, and does not list it any more. What
    cannot be got at must not count as deleted. One that is listed and, by the same server, is not there is damaged (or
    was being renamed): its mail is gone from the target with the first look that believes the wrong one of the two, and
    to wait for an administrator costs none.

    Raises: EndpointUnavailable; EndpointBusy, EndpointBroken, RequestRefused: it is there, or may be.
    """
    code, doing = refused.answer.code, f"open the folder {shown(wire)}"
    is_denied = code in (b"NONEXISTENT", b"TRYCREATE")
    may_be_gone = is_denied or (code in (b"", b"CANNOT") and refused.answer.status == b"NO")
    if may_be_gone and not await _is_listed(connection, wire):
        return
    if is_denied:
        why = f"{doing}, which it lists and says not to have: {refused.answer.text}"
        raise EndpointBusy(endpoint=connection.endpoint, retry_after_s=60.0, why=why, part=doing) from refused
    raise error_of(connection.endpoint, refused, doing=doing) from refused


async def _is_listed(connection: Connection, wire: bytes) -> bool:
    """As one that can be selected."""
    found: list[Listed] = []

    def take(response: Response) -> None:
        kind, *rest = words(response)
        if bytes(kind).upper() == b"LIST" and connection.mailbox_named(rest[2]) == wire:
            found.append(Listed(wire=wire))
            _note_list(found[-1], rest)

    try:
        await connection.run(b'LIST "" ', MailboxName(wire), take=take)
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing="list its folders") from refused
    return any(one.selectable for one in found)


def _nameless(connection: Connection, wire: bytes) -> EndpointBroken:
    return EndpointBroken(
        endpoint=connection.endpoint,
        why=f"it gives folder {wire!r} no UIDVALIDITY, so its messages cannot be told apart",
    )


def _note_list(one: Listed, rest: Sequence[Any]) -> None:
    for word in rest[0]:
        attribute = bytes(word).decode("ascii", "replace").lower()
        if attribute in ("\\noselect", "\\nonexistent"):
            one.selectable = False
        elif attribute == "\\subscribed":
            one.subscribed = True
        elif attribute in _SPECIAL_BY_LOWER:
            one.special_use = _SPECIAL_BY_LOWER[attribute]


def _note_status(one: Listed, status: Sequence[Any]) -> None:
    said_values = pairs(status)
    inner = said_values.get(b"MAILBOXID")
    if isinstance(inner, list):
        one.mailbox_object = bytes(inner[0]) if inner else b""
        return
    one.validity = number(said_values.get(b"UIDVALIDITY", b"0"))
    one.uidnext = number(said_values.get(b"UIDNEXT", b"0"))
    one.items = number(said_values.get(b"MESSAGES", b"0"))
    one.modseq = number(said_values.get(b"HIGHESTMODSEQ", b"0"))


# ---- messages


@attrs.define
class _Opened:
    """A folder that is being looked into."""

    wanted: Wanted
    whole: bool
    """Everything is asked for."""
    examine: Command | None = None
    validity: int = 0
    uidnext: int = 0
    modseq: int = 0
    items: int = 0
    told: int = 0
    top: int = 0
    """Messages whose part is over, and the highest UID of them."""
    expunged: int = 0
    is_left_out: bool = False
    seen: dict[int, Seen] = attrs.Factory(dict)
    """What was told and no part has taken yet. A server may work on several commands at once, and what it says does not
    tell of which it comes."""
    in_part: dict[int, dict[bytes, Any]] = attrs.Factory(dict)
    """What several responses tell of one message, which they may, until it is all there."""
    gone: list[tuple[int, int]] = attrs.Factory(list)

    def take_examine(self, response: Response) -> None:
        head = response.head.upper()
        if head.endswith(b" EXISTS"):
            self.items = number(head.split()[1])
        elif head.startswith(b"* OK ["):
            answer = said(response.head[2:])
            if answer.code == b"UIDVALIDITY":
                self.validity = number(answer.arguments)
            elif answer.code == b"UIDNEXT":
                self.uidnext = number(answer.arguments)
            elif answer.code == b"HIGHESTMODSEQ":
                self.modseq = number(answer.arguments)

    def usual_fetch(self, buffer: bytearray, at: int, to: int) -> int:
        """Lines of the listing that are as asked."""
        together = _ALL_AS_ASKED.match(buffer, at, to)
        if together is None:
            return at
        seen, two = self.seen, _TWO_DIGITS
        for uid_word, flags, day, hour, minute, second, zone, size in _AS_ASKED.findall(buffer, at, together.end()):
            received_ms = midnight_ms(day, zone) + (two[hour] * 3600 + two[minute] * 60 + two[second]) * 1000
            uid = int(uid_word)
            seen[uid] = tuple.__new__(Seen, (uid, *_flags_said(flags), received_ms, int(size), 0))
        return together.end()

    def take_fetch(self, response: Response) -> None:
        head = response.head
        if head[2:11].upper() == b"VANISHED ":
            uids = head.split()[-1]
            if uids[:1].isdigit():  # some say it of none
                runs = runs_in(uids)
                self.gone += runs
                self.expunged += sum(last - first + 1 for first, last in runs)
            return
        if _EXPUNGE.fullmatch(head):
            self.expunged += 1
            return
        values = _fetched(response)
        if b"UID" in values:
            uid = number(values[b"UID"])
            told = self.in_part.pop(uid, {}) | values
            if told.keys() >= _WHOLE:
                self.seen[uid] = _seen(told)
            else:
                self.in_part[uid] = told


@attrs.frozen
class _Looking:
    """One look on its way, or a part of one: the UIDs from `first` to `last`, None for no end."""

    folder: _Opened
    first: int
    last: int | None
    fetch: Command

    def take(self) -> list[Seen]:
        """What was told of these UIDs, by its end; `n:*` tells of the last message too, whatever its UID."""
        told = self.folder.seen
        if self.first == 1 and self.last is None:
            return list(told.values())
        ours = [uid for uid in told if self.first <= uid <= (self.last or uid)]
        return [told.pop(uid) for uid in ours]


async def look_into(connection: Connection, folders: Iterable[Wanted], *, on_look: OnLook) -> None:
    """Each folder's look, in turn, `AHEAD` of them, or parts of them, asked for before the first is answered.

    A folder that went meanwhile is left out: the next listing tells.
    """
    looking: deque[_Looking] = deque()
    again: list[Wanted] = []
    for wanted in folders:
        opened = await _open(connection, wanted)
        for first, last in _parts(opened):
            looking.append(await _ask(connection, opened, first, last))
            if len(looking) == AHEAD:
                await _end(connection, looking.popleft(), on_look, again)
    while looking:
        await _end(connection, looking.popleft(), on_look, again)
    if again:
        await look_into(connection, again, on_look=on_look)


def _parts(opened: _Opened) -> Iterator[tuple[int, int | None]]:
    """By UID, which stay when messages go: of so many UIDs each that about `PART_ITEMS` of them are there."""
    listed = opened.wanted.in_parts
    first = 1
    if opened.whole and listed is not None and listed.items > PART_ITEMS:
        step = max(PART_ITEMS, PART_ITEMS * listed.uidnext // listed.items)
        while first + step < listed.uidnext:
            yield first, first + step - 1
            first += step
    yield first, None


async def _open(connection: Connection, wanted: Wanted) -> _Opened:
    can_condstore = b"CONDSTORE" in connection.capabilities or b"QRESYNC" in connection.enabled
    opened = _Opened(wanted, whole=not (wanted.modseq and can_condstore))
    opened.examine = await connection.start(
        b"EXAMINE ", MailboxName(wanted.wire), b" (CONDSTORE)" if can_condstore else b"", take=opened.take_examine
    )
    connection.selected = None
    connection.is_in_folder = True
    return opened


async def _ask(connection: Connection, opened: _Opened, first: int, last: int | None) -> _Looking:
    since = b""
    if not opened.whole:
        vanished = b" VANISHED" if b"QRESYNC" in connection.enabled else b""
        since = b" (CHANGEDSINCE %d%s)" % (opened.wanted.modseq, vanished)
    to = b"*" if last is None else b"%d" % last
    fetch = await connection.start(
        b"UID FETCH %d:%s (UID FLAGS INTERNALDATE RFC822.SIZE)%s" % (first, to, since),
        take=opened.take_fetch,
        usual=opened.usual_fetch,
    )
    return _Looking(opened, first, last, fetch)


async def _end(connection: Connection, one: _Looking, on_look: OnLook, again: list[Wanted]) -> None:
    """`again`: has the folders to look into once more, at everything and at once."""
    opened, wanted = one.folder, one.folder.wanted
    if one.first == 1:
        await _opened(connection, opened)
    (unlisted,) = await connection.refusals([one.fetch])
    if opened.is_left_out:
        return
    seen = one.take()
    opened.told += len(seen)
    opened.top = max(opened.top, max((message.uid for message in seen), default=0))
    if not _adds_up(opened, one, unlisted):
        if wanted.is_again:
            raise _short(connection, opened, unlisted)
        opened.is_left_out = True
        again.append(attrs.evolve(wanted, modseq=0, in_parts=None, is_again=True))
        return
    await on_look(
        Look(
            folder_id=wanted.folder_id,
            validity=opened.validity,
            uidnext=max(opened.uidnext, opened.top + 1),
            modseq=opened.modseq,
            items=opened.items,
            seen=seen,
            gone=opened.gone,
            whole=opened.whole,
            first=one.first,
            last=one.last,
        )
    )


async def _opened(connection: Connection, opened: _Opened) -> None:
    """The server has answered; or the folder went, and is left out."""
    assert opened.examine is not None
    try:
        await connection.done(opened.examine)
    except Refused as refused:
        opened.is_left_out = True
        await check_gone(connection, opened.wanted.wire, refused)
        return
    if not opened.validity:
        raise _nameless(connection, opened.wanted.wire)


def _adds_up(opened: _Opened, one: _Looking, unlisted: Refused | None) -> bool:
    if not opened.whole and not opened.modseq:
        return False  # NOMODSEQ: it keeps no account of this folder now, so it cannot tell since
    if unlisted is not None and opened.items:
        return False  # of an empty mailbox some servers refuse `1:*`; of any other the answer is missing
    is_over = one.last is None
    return not (opened.whole and is_over) or opened.told + opened.expunged >= opened.items


def _short(connection: Connection, opened: _Opened, unlisted: Refused | None) -> MoveError:
    doing = f"list the messages of the folder {shown(opened.wanted.wire)}"
    if unlisted is not None:
        return error_of(connection.endpoint, unlisted, doing=doing)
    why = f"{doing}: it says that there are {opened.items:,}, and lists {opened.told:,}"
    return EndpointBusy(endpoint=connection.endpoint, retry_after_s=SHORT_S, why=why, part=doing)


def is_fetch(response: Response) -> bool:
    """Does it tell of a message? The end of a FETCH may say `OK [HIGHESTMODSEQ 10] Fetch completed`."""
    return _FETCH.match(response.head) is not None


def seen_in(response: Response) -> Seen | None:
    """A message, if the response lists one whole; what comes unasked says less and is left for the next look."""
    values = _fetched(response)
    return _seen(values) if values.keys() >= _WHOLE else None


def _fetched(response: Response) -> dict[bytes, Any]:
    """What it tells of a message; empty where it tells of none."""
    return pairs(words(response)[2]) if is_fetch(response) else {}


def _seen(values: Mapping[bytes, Any]) -> Seen:
    flags, keywords = flags_in(values[b"FLAGS"])
    received = date_ms(bytes(values[b"INTERNALDATE"]))
    return Seen(number(values[b"UID"]), flags, keywords, received, number(values[b"RFC822.SIZE"]))


@lru_cache(4096)
def _flags_said(text: bytes) -> tuple[int, tuple[str, ...]]:
    """A mailbox has thousands of messages and a few dozen sets of flags."""
    return flags_in(text.split())


def flags_in(listed: Sequence[bytes]) -> tuple[int, tuple[str, ...]]:
    """System flags as bits, and the keywords, sorted, each once in whatever case it came first."""
    flags = 0
    keywords: dict[str, str] = {}
    for word in listed:
        if word[:1] == b"\\":
            flags |= _FLAGS.get(bytes(word).lower(), 0)
        else:
            keyword = bytes(word).decode("utf-8", "replace")
            keywords.setdefault(keyword.lower(), keyword)
    return flags, tuple(sorted(keywords.values()))


@lru_cache(4096)
def flag_words(flags: int, keywords: tuple[str, ...]) -> bytes:
    r"""`\Seen work` of the bits and keywords."""
    said_flags = [name.replace(b"\\", b"").capitalize() for name, bit in _FLAGS.items() if flags & bit]
    return b" ".join([b"\\" + name for name in said_flags] + [keyword.encode() for keyword in keywords])
