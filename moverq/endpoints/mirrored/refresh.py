"""A refresh: one look at the server, after which the mirror knows what is there.

    LIST … RETURN STATUS ─▶ tree ─▶ the folders whose status differs ─▶ looks ─▶ differences ─▶ mirror
                                                                         └─ moved? read a few, compare content

A mailbox that is listed for the first time, and a target that holds what was put there, needs no reading: what a look
tells is in the mirror while the server lists the next folder.

With nothing changed it is one command. Each folder's position (UIDVALIDITY, HIGHESTMODSEQ as EXAMINE gave them,
*before* the messages were listed) is written in the transaction that holds what was found up to there: what changes
meanwhile is beyond it, and is seen by the next.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs

from moverq.endpoints.mirrored import emptied, learned, tree
from moverq.endpoints.mirrored.learned import Difference, Look, Looks, Seen
from moverq.endpoints.mirrored.listed import Listed, Wanted
from moverq.endpoints.mirrored.mirror import A_GUESS, FolderRow, Located, Mirror, Standing
from moverq.endpoints.mirrored.normal_form import Normal, content_hash, is_same
from moverq.errors import EndpointBusy
from moverq.flow import clock
from moverq.model.ids import FolderId, ItemId

if TYPE_CHECKING:
    from moverq.endpoints.mirrored.session import MailSession

ROWS_MAX: Final = 20_000
"""Listed messages held before they are put into the mirror: about 6 MiB."""
ROWS_AT_ONCE: Final = 2_000
"""Those that need no reading: 10 ms, while the server lists the next."""


async def refresh(session: "MailSession", *, afresh: bool = False) -> Standing:
    """The mirror knows what the server has. One at a time; who comes while one runs waits and makes his own.

    `afresh`: also that of which no status tells a change.

    Raises: EndpointUnavailable, EndpointBusy, EndpointBroken.
    """
    async with session.refreshing:
        standing = await session.mirror.ask(Mirror.standing)
        known = None  # where the mirror is right, folders are known by their names
        if not standing.is_movers:
            known = {
                row.wire: (row.server_status, row.mailbox_object) for row in await session.mirror.ask(Mirror.folders)
            }
        listed = await session.list_folders(known=known, afresh=afresh)
        if not listed and await session.mirror.ask(lambda mirror: bool(mirror.folders())):
            why = "it lists no folders, not even INBOX, where there were some"
            raise EndpointBusy(endpoint=session.name, retry_after_s=60.0, why=why, part="list its folders")
        rows = await session.mirror.ask(partial(_settle_tree, listed=listed, session=session))
        wanted = _wanted(rows, listed)
        orphans = await session.mirror.ask(_orphans)
        if wanted or orphans:
            await _learn(session, wanted, orphans, is_movers=standing.is_movers)
        return await session.mirror.ask(_believed)


def _believed(mirror: Mirror) -> Standing:
    emptied.forget(mirror)
    return mirror.standing()


def _settle_tree(mirror: Mirror, *, listed: Sequence[Listed], session: "MailSession") -> list[FolderRow]:
    """The mirror's folders, after the tree was brought up to the listing; blocking."""
    known = mirror.folders()
    naming = session.known_naming
    if not mirror.standing().is_movers:
        tree.apply_tree(mirror, tree.plan_tree(known, listed, naming))
        return mirror.folders()
    there = {one.wire for one in listed if one.selectable}
    missing = [row for row in known if row.selectable and row.wire not in there]
    if missing:
        with mirror.changing():
            for row in missing:
                # Somebody removed it: the tree lacks it, so verification sees that, and the next plan makes it again.
                mirror.db.execute("DELETE FROM folders WHERE folder_id = ?", (row.folder_id,))
                mirror.db.execute("DELETE FROM to_expunge WHERE folder_id = ?", (row.folder_id,))
    return mirror.folders()


def _orphans(mirror: Mirror) -> list[Located]:
    """Items of folders that are gone, or only hold folders now: so a folder with others in it is deleted."""
    folders = [
        folder_id
        for (folder_id,) in mirror.db.execute(
            "SELECT folder_id FROM sums WHERE items > 0 "
            "AND folder_id NOT IN (SELECT folder_id FROM folders WHERE selectable = 1)"
        )
    ]
    found: list[Located] = []
    for folder_id in folders:
        found += learned.located_in(mirror, folder_id)
    return found


def _wanted(rows: Sequence[FolderRow], listed: Sequence[Listed]) -> list[Wanted]:
    """The folders whose status is not what the mirror knows."""
    found = []
    by_wire = {row.wire: row for row in rows}
    for one in listed:
        row = by_wire.get(one.wire)
        if row is None or not one.selectable or one.validity is None:
            continue
        if one.status == row.server_status:
            continue
        same = row.server_validity == one.validity and one.modseq >= row.server_modseq
        found.append(
            Wanted(
                folder_id=row.folder_id,
                wire=one.wire,
                modseq=row.server_modseq if same else 0,
                in_parts=None if row.server_items == A_GUESS else one,
            )
        )
    return found


@attrs.define
class _Pending:
    """Differences that are not in the mirror yet."""

    differences: list[Difference] = attrs.Factory(list)
    rows: int = 0

    def add(self, *differences: Difference) -> None:
        self.differences += differences
        self.rows += sum(difference.size for difference in differences)

    def drop(self, folder_id: FolderId) -> None:
        """What was found in this folder."""
        self.add(*(difference for difference in self.take() if difference.look.folder_id != folder_id))

    def take(self) -> Sequence[Difference]:
        """All of them; none is pending any more."""
        taken = self.differences
        self.differences, self.rows = [], 0
        return taken


async def _learn(
    session: "MailSession", wanted: Sequence[Wanted], orphans: Sequence[Located], *, is_movers: bool
) -> None:
    can_be_pairs = is_movers or await session.mirror.ask(Mirror.has_items)
    ready, held = _Pending(), _Pending()
    told: set[FolderId] = set()
    waiting: FolderId | None = None
    must_read = bool(orphans)

    async def put_ready() -> None:
        differences = ready.take()
        await session.mirror.ask(partial(learned.apply, differences=differences, pairs={}, is_movers=is_movers))

    async def on_look(look: Look) -> None:
        nonlocal waiting, must_read
        if look.first == 1:
            if look.folder_id in told:  # anew: of its parts those count that are in the mirror
                held.drop(look.folder_id)
                await put_ready()
            told.add(look.folder_id)
            waiting = None
        difference = await session.mirror.ask(partial(learned.compare, look=look))
        must_read = must_read or difference.needs_reading
        # Behind a part that must wait the folder's others do: with the last it counts as looked into.
        must_ask = difference.needs_reading or (is_movers and difference.flags_missing)
        if must_ask or (can_be_pairs and difference.new) or waiting == look.folder_id:
            waiting = look.folder_id
            held.add(difference)
            if must_read or is_movers or held.rows <= ROWS_MAX:
                return
            ready.add(*held.take())  # nothing is known to be lost: they are what they seem to be
        else:
            ready.add(difference)
        if ready.rows >= ROWS_AT_ONCE:
            await put_ready()

    await session.look_into(wanted, on_look=on_look)
    if ready.differences:
        await put_ready()
    differences = await _told_whole(session, held.take())
    if not is_movers:
        await _check_emptied(session, differences, orphans)
    if orphans or any(difference.lost for difference in differences):
        await _put(session, differences, orphans, is_movers=is_movers)  # what one lost may be new in any other
        return
    some = _Pending()
    for difference in differences:
        some.add(difference)
        if some.rows > ROWS_MAX:
            await _put(session, some.take(), (), is_movers=is_movers)
    if some.differences:
        await _put(session, some.take(), (), is_movers=is_movers)


async def _told_whole(session: "MailSession", differences: Sequence[Difference]) -> Sequence[Difference]:
    """Of a folder in which what is known and what was told did not add up, what all of its list tells counts, and no
    part that was told before."""
    found = list(differences)
    for difference in differences:
        if difference.incomplete:
            folder_id = difference.look.folder_id
            whole = await _look_at_all(session, folder_id)
            if whole is not None:
                found = [*(one for one in found if one.look.folder_id != folder_id), whole]
    return found


async def _check_emptied(session: "MailSession", differences: Sequence[Difference], orphans: Sequence[Located]) -> None:
    """Raises `EndpointBusy` where nearly everything is gone: see `emptied`."""
    lost = len(orphans) + sum(len(difference.lost) for difference in differences)
    new = sum(len(difference.new) for difference in differences)
    if lost > new:
        doubt = partial(emptied.doubt, lost=lost, new=new, now_ms=clock.now_ms())
        why = await session.mirror.ask(doubt)
        if why:
            raise EndpointBusy(endpoint=session.name, retry_after_s=60.0, why=why)


async def _look_at_all(session: "MailSession", folder_id: FolderId) -> Difference | None:
    """The folder's whole list. None: it went meanwhile."""
    rows = await session.mirror.ask(Mirror.folders)
    (row,) = [row for row in rows if row.folder_id == folder_id]
    held = Looks()
    await session.look_into([Wanted(folder_id=folder_id, wire=row.wire, modseq=0)], on_look=held.keep)
    return await session.mirror.ask(partial(learned.compare, look=held[0])) if held else None


async def _put(
    session: "MailSession", differences: Sequence[Difference], orphans: Sequence[Located], *, is_movers: bool
) -> None:
    pairs = await _pair(session, differences, orphans, is_movers=is_movers)
    late: learned.Late = learned.NONE_LATE
    if is_movers:
        late = await _late_copies(session, differences, pairs)
        differences = [await _with_flags_not_kept(session, difference) for difference in differences]
    await session.mirror.ask(
        partial(learned.apply, differences=differences, pairs=pairs, orphans=orphans, late=late, is_movers=is_movers)
    )
    for difference in differences:
        if difference.doubted:
            await _look_closer(session, difference)


async def _with_flags_not_kept(session: "MailSession", difference: Difference) -> Difference:
    """Are the flags that are missing at a target such as it does not keep?"""
    if not difference.flags_missing:
        return difference
    folder = (await session.mirror.ask(Mirror.places))[difference.look.folder_id]
    not_kept = await session.flags_not_kept(folder._replace(server_validity=difference.look.validity))
    return attrs.evolve(difference, flags_not_kept=difference.flags_missing & not_kept)


# ---- the same message in another place


async def _pair(
    session: "MailSession", differences: Sequence[Difference], orphans: Sequence[Located], *, is_movers: bool
) -> dict[tuple[FolderId, int], ItemId]:
    """Which new message is which lost item, by content. Of equal copies any may be any."""
    lost: dict[tuple[int, FolderId | None], list[Located]] = defaultdict(list)
    for found in [*orphans, *(one for difference in differences for one in difference.lost)]:
        # At a target nobody moves messages, so there an item is only sought in its own folder.
        lost[found.state.received_ms // 1000, found.state.folder_id if is_movers else None].append(found)
    if not lost:
        return {}
    pairs: dict[tuple[FolderId, int], ItemId] = {}
    for difference in differences:
        folder_id = difference.look.folder_id
        within = folder_id if is_movers else None
        asked: list[Seen] = []
        for seen in difference.new:
            candidates = lost.get((seen.received_ms // 1000, within), [])
            unread = next(
                (one for one in candidates if not one.state.content_hash and one.state.size == seen.size), None
            )
            if unread is not None:
                # Nobody has read it, so nobody has copied it: whichever it is, its bytes are still to come.
                candidates.remove(unread)
                pairs[folder_id, seen.uid] = unread.state.item_id
            elif candidates:
                asked.append(seen)
        by_uid = {seen.uid: seen for seen in asked}
        async for uid, content in _bodies(session, difference.look, asked):
            seen = by_uid[uid]
            candidates = lost[seen.received_ms // 1000, within]
            for found in candidates:
                if is_same(content, found.state.content_hash, found.normal_hash, session.normal):
                    candidates.remove(found)
                    pairs[folder_id, uid] = found.state.item_id
                    break
    return pairs


async def _late_copies(
    session: "MailSession", differences: Sequence[Difference], pairs: dict[tuple[FolderId, int], ItemId]
) -> learned.Late:
    """New messages at a target that an intent, which had been found not to be there and was written again, brings
    after all; and those that were to be expunged before their folder's UIDs changed: provably our own, and not wanted
    any more."""
    validity = {difference.look.folder_id: difference.look.validity for difference in differences}
    unwanted = await session.mirror.ask(partial(learned.unwanted, validity=validity))
    if not unwanted or session.mirror.intents:
        return learned.NONE_LATE  # or it may be what is being written again now
    late: dict[tuple[FolderId, int], tuple[int, bytes]] = {}
    for difference in differences:
        folder_id = difference.look.folder_id
        asked = [
            seen
            for seen in difference.new
            if (folder_id, seen.uid) not in pairs and (folder_id, seen.received_ms // 1000) in unwanted
        ]
        by_uid = {seen.uid: seen for seen in asked}
        async for uid, content in _bodies(session, difference.look, asked):
            seen = by_uid[uid]
            second = seen.received_ms // 1000
            hashes = unwanted[folder_id, second]
            for hash_ in hashes:
                if is_same(content, hash_, hash_, session.normal):
                    hashes.remove(hash_)
                    late[folder_id, uid] = second, hash_
                    break
    return late


async def _look_closer(session: "MailSession", difference: Difference) -> None:
    """Items that the server lists with another size or date than were sent: read, and told apart."""
    sent = {seen.uid: (located, seen) for located, seen in difference.doubted}
    verdicts: list[tuple[int, str]] = []
    async for uid, content in _bodies(session, difference.look, [seen for _, seen in difference.doubted]):
        located, seen = sent[uid]
        verdicts.append((located.seq, _verdict(located, seen, content, session.normal)))
    await session.mirror.ask(partial(learned.note_verdicts, verdicts=verdicts))


def _verdict(located: Located, seen: Seen, content: bytes, form: Normal) -> str:
    """What the report should say of it; "" for nothing."""
    if located.state.received_ms // 1000 != seen.received_ms // 1000:
        return "the server did not keep the date of a message"
    if content_hash(content) == located.state.content_hash:
        return "" if located.normal_hash else "the server tells a wrong size of a message"
    if is_same(content, located.state.content_hash, located.normal_hash, form):
        return "the server keeps a message in its own form: line ends, NUL, header bytes that are not ASCII"
    return "the server keeps a message with other bytes than it was sent"


async def _bodies(session: "MailSession", look: Look, asked: Sequence[Seen]) -> AsyncIterator[tuple[int, bytes]]:
    """(uid, content) of these messages, a bounded batch at a time."""
    if not asked:
        return
    folder = (await session.mirror.ask(Mirror.places))[look.folder_id]
    folder = folder._replace(server_validity=look.validity)  # the mirror may have an older one, and other UIDs with it
    at = 0
    while at < len(asked):
        some: list[int] = []
        size = 0
        while at < len(asked) and (not some or size + asked[at].size <= session.bytes_max):
            some.append(asked[at].uid)
            size += asked[at].size
            at += 1
        read, _ = await session.read(folder, some)
        for uid, content in read.items():
            yield uid, content


__all__ = ["refresh"]
