"""Messages go to the server: MULTIAPPENDs over several connections at once, which end one after the other.

Of an APPEND the server's work is taking the bytes and syncing them; giving out UIDs is a moment at the end. So the
batches of a folder are sent at the same time, each on a connection of its own, and each but the first holds its last
two bytes back until the one before is answered. The messages of a folder keep their order, and the server is never
without work while an answer is under way.

    connection 1   APPEND {…}bytes{…}bytes CRLF ─▶ OK
    connection 2   APPEND {…}bytes{…}bytes · · · · · · CRLF ─▶ OK
    connection 3   APPEND {…}bytes{…}by…

What always holds: a batch waits only for one that has its connection already, so somebody always gets on. A server
that locks the folder from the first byte of an APPEND to its last would make the first wait for the second's lock: a
batch that has waited for `GATE_S` with all its bytes sent gives up its connection, and with it what it sent, waits
without one, and from then on no two are sent to one folder at once.

A keyword that the server does not keep is left out: what a folder takes (PERMANENTFLAGS) is asked before the first
keyword goes there. System flags are sent all the same, for some servers keep what they do not name. Of what the server
refuses, only what it says of the message itself makes a bad item: which of a refused batch that is, is found by halving
it. One that is refused alone is tried without the flags that the folder does not name, and without its keywords; flags
that were why are not sent to that folder again.

How many batches a page is cut into depends on how long the server takes for the bytes and for an end: see `pace`. Two
pages are written at a time, so the server has work even where that is one.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from moverq.endpoints.imap.connection import PASSING, Command, Connection, MailboxName, Piece, Refused, error_of, shown
from moverq.endpoints.imap.listing import flag_words, seen_in
from moverq.endpoints.imap.pace import Pace, Took
from moverq.endpoints.imap.reading import read_bodies
from moverq.endpoints.imap.wire import Response, date_words, number, uids_in
from moverq.endpoints.imap.writing import Selected, plainer, select
from moverq.endpoints.mirrored import intents
from moverq.endpoints.mirrored.intents import Merged, Placed, ToAppend
from moverq.endpoints.mirrored.mirror import FolderPlace
from moverq.errors import MoveError
from moverq.flow.batches import in_batches
from moverq.model.change import BadItem
from moverq.model.ids import FolderId, ItemId

if TYPE_CHECKING:
    from moverq.endpoints.imap.session import ImapSession

PAGES_AT_ONCE: Final = 2
"""So many a mover writes at a time; each has its share of the connections."""
BATCH_ITEMS_MIN: Final = 25
"""A page is not cut up smaller than this, however many connections there are."""
BATCH_BYTES: Final = 8 << 20
APPENDS_AHEAD: Final = 4
"""Without MULTIAPPEND: APPENDs sent on one connection before the first is answered."""
REFUSALS_MAX: Final = 32
"""Of a batch and its halves, until what is left goes one message at a time: three bad messages of 512 are found."""
GATE_S: Final = 5.0
_ITS_OWN_TROUBLE: Final = PASSING | {b"OVERQUOTA", b"CORRUPTION", b"NOPERM", b"EXPIRED"}
"""Of a refusal (RFC 5530): another message would fare no better."""


class _InTheWay(Exception):
    """The batch before does not end while this one is open."""


@attrs.define(eq=False)
class AppendOrder:
    """Of one mailbox: which batch comes after which, whoever writes."""

    handing_out: trio.Lock = attrs.Factory(trio.Lock)
    """Held while the batches of one write get their connections, so that no later write has all of them."""
    at_once: bool = True
    """Several batches may be sent to one folder at the same time."""
    tops: dict[FolderId, int] = attrs.Factory(dict)
    """The highest UID in each folder that an answer told."""
    pace: Pace = attrs.Factory(Pace)
    _last: dict[FolderId, trio.Event] = attrs.Factory(dict)

    def follow(self, folder_id: FolderId) -> tuple[trio.Event | None, trio.Event]:
        """The end of the folder's batch before, if that is still to come; and the end of the new one, for its writer
        to set."""
        before = self._last.get(folder_id)
        self._last[folder_id] = end = trio.Event()
        return (None if before is None or before.is_set() else before), end


async def append_all(session: "ImapSession", merged: Merged, token: int) -> tuple[BadItem, ...]:
    """Every message of an intent that is at work is at the server and has its place in the mirror, but for those that
    the server refused, and those of which it did not say where they are: `settle` finds these.

    Cancelled, or an error: the intent is in doubt.
    """
    by_folder: dict[FolderId, list[ToAppend]] = defaultdict(list)
    for one in merged.appends:
        by_folder[one.state.folder_id].append(one)
    left_out = await _leave_out(session, merged, by_folder)
    order = session.append_order
    batches: list[_Batch] = []
    # In the nursery: one task a batch, each until its messages are there.
    async with trio.open_nursery() as nursery, order.handing_out:
        into = order.pace.batches(at_most=session.connections.at_most // PAGES_AT_ONCE)
        for folder_id, some in by_folder.items():
            for items in cut(some, of=len(merged.appends), into=into):
                batch = _Batch(session, merged.places[folder_id], items, *order.follow(folder_id))
                batches.append(batch)
                await nursery.start(batch.run)
    took = [batch.took for batch in batches if batch.took is not None]
    if len(merged.appends) >= 2 * BATCH_ITEMS_MIN and len(took) == len(batches):
        order.pace.note(took)
    placed = [place for batch in batches for place in batch.placed]
    bad = [item for batch in batches for item in batch.bad]
    for batch in batches:
        left_out |= batch.less
    for item in bad:
        left_out.pop(item.state.item_id, None)
    if placed or left_out:
        kept = {item_id: (one.flags, one.keywords) for item_id, one in left_out.items()}
        await session.mirror.ask(partial(intents.note_placed, placed=placed, token=token, left_out=kept))
    if bad:
        await session.mirror.ask(partial(intents.forget, item_ids=[item.state.item_id for item in bad], token=token))
    return tuple(bad)


async def _leave_out(
    session: "ImapSession", merged: Merged, by_folder: dict[FolderId, list[ToAppend]]
) -> dict[ItemId, ToAppend]:
    """Keywords that their folder does not take, and flags that it refused before, are gone from what is to be written:
    the items that had some, as they are left."""
    left_out: dict[ItemId, ToAppend] = {}
    for folder_id, some in by_folder.items():
        taken = None
        if any(one.keywords for one in some):
            if folder_id not in session.taken:
                async with session.connection() as connection:
                    await _ask_taken(session, connection, merged.places[folder_id])
            taken = session.taken.get(folder_id, Selected()).keywords
        refused = session.flags_refused.get(folder_id, 0)
        if taken is None and not refused:
            continue
        for at, one in enumerate(some):
            words = one.keywords if taken is None else tuple(word for word in one.keywords if word.lower() in taken)
            flags = one.flags & ~refused
            if (flags, words) != (one.flags, one.keywords):
                some[at] = left_out[one.state.item_id] = one._replace(flags=flags, keywords=words)
    return left_out


async def _ask_taken(session: "ImapSession", connection: Connection, folder: FolderPlace) -> None:
    """What flags and keywords the folder takes is known; or it went, as the APPEND will say."""
    selected = await select(connection, folder.wire)
    if selected.validity:
        session.taken[folder.folder_id] = selected


def cut(appends: Sequence[ToAppend], *, of: int, into: int) -> Iterator[Sequence[ToAppend]]:
    """The batches of one folder, if all of a page's messages are `of` and go into so many."""
    return in_batches(appends, _size, bytes_max=BATCH_BYTES, items_max=max(BATCH_ITEMS_MIN, -(-of // into)))


def _size(one: ToAppend) -> int:
    return one.state.size


@attrs.define(eq=False)
class _Batch:
    """Messages of one folder that are sent on one connection."""

    session: "ImapSession"
    folder: FolderPlace
    items: Sequence[ToAppend]
    before: trio.Event | None
    end: trio.Event
    placed: list[Placed] = attrs.Factory(list)
    bad: list[BadItem] = attrs.Factory(list)
    less: dict[ItemId, ToAppend] = attrs.Factory(dict)
    """Those that were tried once more with fewer flags or keywords, as they were last."""
    took: Took | None = None
    """Of one MULTIAPPEND, that was taken."""
    _waited_s: float = 0.0
    _is_any_taken: bool = False
    _is_all_told: bool = True
    """Of what was taken, the server has said where it is."""
    _limited: list[Refused] = attrs.Factory(list)
    _untried: dict[ItemId, list[ToAppend]] = attrs.Factory(dict)
    """Of the messages that were refused alone: as what they may still be taken."""

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Started: the batch has its connection."""
        order = self.session.append_order
        try:
            if self.before is not None and not order.at_once:
                await self.before.wait()
            async with self.session.connection() as connection:
                task_status.started()
                try:
                    await self._send(connection)
                    return
                except _InTheWay:
                    pass  # in the middle of its command, the connection is not lent again but closed
            order.at_once = False
            assert self.before is not None
            await self.before.wait()
            async with self.session.connection() as connection:
                await self._send(connection)
        finally:
            self.end.set()

    async def _send(self, connection: Connection) -> None:
        many = connection.has(b"MULTIAPPEND")
        commands = [self.items] if many else [[one] for one in self.items]
        again: list[ToAppend] = []
        sent: list[tuple[Command, Sequence[ToAppend]]] = []
        begun = trio.current_time()
        for number_, some in enumerate(commands):
            before_end = self._wait_for_before if self.before is not None and not number_ else None
            sent.append((await connection.start(*self._pieces(some, connection), before_end=before_end), some))
            if len(sent) == APPENDS_AHEAD:
                again += await self._answer(connection, *sent.pop(0))
        sent_at = trio.current_time()
        while sent:
            again += await self._answer(connection, *sent.pop(0))
        if many and not again:
            self.took = Took(sent_at - begun - self._waited_s, trio.current_time() - sent_at)
        if again and self.before is not None:
            await self.before.wait()  # one that was refused before its end has not waited
        await self._send_again(connection, again)
        if len(self._limited) > 1 and not self._is_any_taken:  # a limit of the folder's, or the user's
            raise self._error(connection, self._limited[0]) from self._limited[0]

    async def _send_again(self, connection: Connection, refused: Sequence[ToAppend]) -> None:
        """A refused batch in halves, in its order, and their halves: who is refused alone is why. One message at a time
        where that is to no end, or where it cannot be told what a refused half left there."""
        can_halve = connection.has(b"MULTIAPPEND", b"UIDPLUS")
        refusals = 0
        left: list[Sequence[ToAppend]] = []
        while True:
            if can_halve and len(refused) > 1:
                refused = await self._not_kept(connection, refused)
                refusals += 1
            can_halve = can_halve and self._is_all_told and refusals < REFUSALS_MAX
            middle = (len(refused) + 1) // 2
            left = [some for some in (refused[:middle], refused[middle:], *left) if some]
            if not left:
                return
            some = left.pop(0)
            if not can_halve:
                left.insert(0, some[1:])
                some = some[:1]
            some = [self._without_refused(one) for one in some]
            refused = await self._answer(connection, await connection.start(*self._pieces(some, connection)), some)

    def _error(self, connection: Connection, refused: Refused) -> MoveError:
        doing = f"take a message into the folder {shown(self.folder.wire)}"
        return error_of(connection.endpoint, refused, doing=doing)

    async def _wait_for_before(self) -> None:
        assert self.before is not None
        begun = trio.current_time()
        with trio.move_on_after(GATE_S):
            await self.before.wait()
            self._waited_s = trio.current_time() - begun
            return
        raise _InTheWay

    def _pieces(self, batch: Sequence[ToAppend], connection: Connection) -> Iterator[Piece]:
        yield b"APPEND "
        yield MailboxName(self.folder.wire)
        is_utf8 = connection.is_utf8
        for one in batch:
            head = b" (" + flag_words(one.flags, one.keywords) + b") " + date_words(one.state.received_ms)
            if is_utf8 and not one.content[: one.content.find(b"\r\n\r\n")].isascii():
                yield from (head + b" UTF8 (~", memoryview(one.content), b")")  # a literal8 (RFC 6855, section 4)
            else:
                yield from (head + b" ", memoryview(one.content))

    async def _answer(self, connection: Connection, command: Command, batch: Sequence[ToAppend]) -> Sequence[ToAppend]:
        """Those of the batch to try once more."""
        try:
            answer = await connection.done(command)
        except Refused as refused:
            return await self._refused(connection, refused, batch)
        self._is_any_taken = True
        for one in batch if self._untried else ():
            if one.state.item_id in self._untried and one.flags != one.state.flags:
                refused_flags, folder_id = self.session.flags_refused, self.folder.folder_id
                refused_flags[folder_id] = refused_flags.get(folder_id, 0) | (one.state.flags & ~one.flags)
        if answer.code == b"APPENDUID":
            validity, _, uids = answer.arguments.partition(b" ")
            found = uids_in(uids)
            if number(validity) == self.folder.server_validity and len(found) == len(batch):
                self.placed += (Placed(one.state.item_id, uid) for one, uid in zip(batch, found, strict=True))
                self._raise_top(found[-1])
                return ()
        self._is_all_told = False
        return ()

    def _raise_top(self, uid: int) -> None:
        tops, folder_id = self.session.append_order.tops, self.folder.folder_id
        tops[folder_id] = max(tops.get(folder_id, 0), uid)

    async def _not_kept(self, connection: Connection, refused: Sequence[ToAppend]) -> list[ToAppend]:
        """Those of a refused batch that the server does not have: against RFC 3502 some keep what came before the one
        that they refused. No other batch of the folder ends meanwhile, so what is new there is of this one."""
        folder_id, wire, server_validity, _ = self.folder
        known = await self.session.mirror.ask(partial(intents.highest_uid, folder_id=folder_id))
        top = max(known, self.session.append_order.tops.get(folder_id, 0))
        seconds = {one.state.received_ms // 1000 for one in refused}
        new: list[int] = []

        def take(response: Response) -> None:
            seen = seen_in(response)
            if seen is not None and seen.uid > top and seen.received_ms // 1000 in seconds:
                new.append(seen.uid)

        validity = (await select(connection, wire)).validity
        with suppress(Refused):  # as `1:*` of an empty folder is by some
            await connection.run(b"UID FETCH %d:* (UID FLAGS INTERNALDATE RFC822.SIZE)" % (top + 1), take=take)
        left = list(refused)
        if validity != server_validity or not new:
            return left
        normal = self.session.normal
        for uid, content in sorted((await read_bodies(connection, wire, new, validity=validity)).items()):
            kept = next((one for one in left if normal(one.content) == normal(content)), None)
            if kept is not None:
                left.remove(kept)
                self.placed.append(Placed(kept.state.item_id, uid))
                self._raise_top(uid)
        return left

    async def _refused(self, connection: Connection, refused: Refused, batch: Sequence[ToAppend]) -> Sequence[ToAppend]:
        """A refused batch is all or nothing (RFC 3502), and one item may be why; of an item, its flags or keywords."""
        code, text = refused.answer.code, refused.answer.text or refused.answer.status.decode()
        if code in (b"TRYCREATE", b"NONEXISTENT"):
            return ()  # the folder went: what was to go there is not there, as the next look will show
        if code in _ITS_OWN_TROUBLE or "quota" in text.lower():
            raise self._error(connection, refused) from refused
        if len(batch) > 1:
            return batch
        (one,) = batch
        if code != b"TOOBIG" and (less := await self._plainer(connection, one)) is not None:
            self.less[one.state.item_id] = less
            return [less]
        if code == b"LIMIT":
            self._limited.append(refused)
        kind = "LargeItem" if code in (b"TOOBIG", b"LIMIT") else "CorruptItem"
        self.bad.append(BadItem(one.state, kind, f"the server refuses it: {text}", raw=one.content))
        return ()

    async def _plainer(self, connection: Connection, one: ToAppend) -> ToAppend | None:
        """The message that was refused, as it may be taken. None: all has been tried."""
        item_id, folder_id = one.state.item_id, self.folder.folder_id
        if item_id not in self._untried:
            if one.flags and folder_id not in self.session.taken:
                await _ask_taken(self.session, connection, self.folder)
            named = self.session.taken.get(folder_id, Selected()).flags
            tries = plainer(one.flags, one.keywords, named=named)
            self._untried[item_id] = [one._replace(flags=flags, keywords=words) for flags, words in tries]
        untried = self._untried[item_id]
        return untried.pop(0) if untried else None

    def _without_refused(self, one: ToAppend) -> ToAppend:
        """The message without the flags that the folder has refused meanwhile."""
        refused = self.session.flags_refused.get(self.folder.folder_id, 0)
        if one.flags & refused:
            one = self.less[one.state.item_id] = one._replace(flags=one.flags & ~refused)
        return one


__all__ = ["AppendOrder", "append_all"]
