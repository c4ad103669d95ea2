"""Who may write to a mailbox instance, checked inside the commit; and the transitions of the guard.

    OPEN ⇄ LOCKED → RETIRED ⇄ SEALED → OPEN          (and from anywhere to RETIRED)
                    RETIRED, soft-deleted → OPEN     (`connect`)

Clients and deliveries write only while open; a mover only while sealed or retired, with its token. A lower token than
the stored one changes nothing (`StaleToken`); a higher one is stored with the effect. No transition happens by itself:
a lock never expires. Pure but for reading the draft.
"""

from store.catalogue import queries
from store.catalogue.queries import MailboxInfo, find_mailbox, purged_token
from store.errors import MailboxLocked, MailboxMoved, MailboxSealed, NoSuchMailbox, Refused, StaleToken
from store.ids import MailboxId
from store.names import LABEL
from store.proposal import Draft
from store.records import (
    GuardSet,
    HeadRaised,
    MailboxConnected,
    MailboxMade,
    MailboxPurged,
    MailboxRemoved,
    Mode,
    SettingPut,
)


def present(draft: Draft) -> MailboxInfo:
    """The instance, if it is not soft-deleted. Raises `NoSuchMailbox`."""
    if draft.info.keep_until_ms is not None:
        raise NoSuchMailbox(instance=draft.instance)
    return draft.info


def require_client(info: MailboxInfo) -> None:
    """A client or a delivery may write. Raises `MailboxLocked`, `MailboxMoved`, `MailboxSealed`, `NoSuchMailbox`."""
    if info.keep_until_ms is not None:
        raise NoSuchMailbox(instance=info.instance)
    if info.mode is Mode.OPEN:
        return
    if info.mode is Mode.LOCKED:
        raise MailboxLocked(instance=info.instance)
    if info.mode is Mode.RETIRED:
        raise MailboxMoved(instance=info.instance, home=info.home)
    raise MailboxSealed(instance=info.instance, why="it is the target of a move that is not committed yet")


def require_token(info: MailboxInfo, token: int) -> None:
    """Raises `StaleToken` where a higher one was seen."""
    if token < info.token:
        raise StaleToken(held=token, seen=info.token)


def require_mover(draft: Draft, token: int) -> None:
    """The mover that holds `token` may write; a higher token than the stored one is stored along."""
    _require_sealed(draft, present(draft), token)


def _require_sealed(draft: Draft, info: MailboxInfo, token: int) -> None:
    require_token(info, token)
    if info.mode not in (Mode.SEALED, Mode.RETIRED):
        raise Refused(why=f"a mover may not write to a mailbox that is {info.mode.name.lower()}")
    if token > info.token:
        draft.records.append(GuardSet(info.instance, info.mode, token, info.home, 0))


def _was_purged(draft: Draft, token: int) -> bool:
    """Of an instance that is not there. Raises `StaleToken` where one with a higher token purged it."""
    last = purged_token(draft.db, draft.instance)
    if last is not None and token < last:
        raise StaleToken(held=token, seen=last)
    return last is not None


def make(draft: Draft, mailbox_id: MailboxId, *, mode: Mode, token: int) -> None:
    """The instance exists. One that exists sealed with this mailbox id is claimed; one that was purged is never made
    again, or a mover who slept through it would leave behind what nobody looks for."""
    info = find_mailbox(draft.db, draft.instance)
    if info is None:
        if _was_purged(draft, token):
            raise Refused(why=f"instance {draft.instance.hex()} was purged, and is not made again")
        draft.records.append(MailboxMade(draft.instance, mailbox_id, mode, token, draft.now_ms))
        return
    require_token(info, token)
    if info.mailbox_id != mailbox_id or info.mode is not mode or info.keep_until_ms is not None:
        raise Refused(why=f"instance {draft.instance.hex()} exists already and is {info.mode.name.lower()}")
    claim(draft, token)


def claim(draft: Draft, token: int) -> MailboxInfo:
    """Every lower token is stale from now on; the mode stays. Returns the mailbox as it is with that."""
    info = draft.info
    require_token(info, token)
    if token > info.token:
        draft.records.append(GuardSet(info.instance, info.mode, token, info.home, 0))
    return info._replace(token=token)


def _move(draft: Draft, token: int, *, allowed: tuple[Mode, ...], to: Mode, home: str = "") -> int:
    info = present(draft)
    require_token(info, token)
    if info.mode not in allowed:
        raise Refused(why=f"a mailbox that is {info.mode.name.lower()} cannot become {to.name.lower()}")
    if info.mode is to:
        if (info.home, info.token) != (home, token):
            draft.records.append(GuardSet(info.instance, to, token, home, 0))
        return info.head
    modseq = draft.next_modseq()
    draft.records.append(GuardSet(info.instance, to, token, home, modseq))
    return modseq


def lock(draft: Draft, token: int) -> int:
    """No client write from now on; returns the lock's own modseq."""
    return _move(draft, token, allowed=(Mode.OPEN, Mode.LOCKED), to=Mode.LOCKED)


def unlock(draft: Draft, token: int) -> int:
    """Clients may write again."""
    return _move(draft, token, allowed=(Mode.OPEN, Mode.LOCKED), to=Mode.OPEN)


def retire(draft: Draft, token: int, home: str) -> int:
    """Sealed, with a redirect."""
    return _move(draft, token, allowed=tuple(Mode), to=Mode.RETIRED, home=home)


def seal(draft: Draft, token: int) -> int:
    """A retired instance becomes a move's target: the move back."""
    return _move(draft, token, allowed=(Mode.SEALED, Mode.RETIRED), to=Mode.SEALED)


def open_(draft: Draft, token: int) -> int:
    """Clients may write: only after the directory says so."""
    return _move(draft, token, allowed=(Mode.SEALED, Mode.OPEN), to=Mode.OPEN)


def remove(draft: Draft, token: int, *, keep_until_ms: int) -> None:
    """Soft-deleted: kept until the date, then to be purged. Gone already: nothing happens."""
    info = find_mailbox(draft.db, draft.instance)
    if info is None:
        _was_purged(draft, token)
        return
    _require_sealed(draft, info, token)
    if info.keep_until_ms is None:
        draft.records.append(MailboxRemoved(info.instance, keep_until_ms))


def label(draft: Draft, token: int, text: str) -> None:
    """Whoever looks for the mailbox once it is soft-deleted finds this; and every lower token is stale."""
    info = claim(draft, token)
    if queries.setting(draft.db, info.no, LABEL) != text:
        draft.records.append(SettingPut(info.instance, LABEL, text, draft.next_modseq()))


def keep(draft: Draft, token: int, *, until_ms: int) -> None:
    """A soft-deleted mailbox is kept until then at least; and every lower token is stale, a purge's too."""
    info = claim(draft, token)
    if info.keep_until_ms is not None and info.keep_until_ms < until_ms:
        draft.records.append(MailboxRemoved(info.instance, until_ms))


def connect(draft: Draft, token: int) -> None:
    """Open, soft-deleted as it may have been, and without its label. Open already: nothing happens. One that is neither
    soft-deleted nor labelled may be in the hands of a move, whatever was seen of it before."""
    info = draft.info
    require_token(info, token)
    is_labelled = queries.setting(draft.db, info.no, LABEL) is not None
    if info.keep_until_ms is None and not is_labelled and info.mode is Mode.OPEN:
        return
    if info.mode is Mode.SEALED or (info.keep_until_ms is None and not is_labelled):
        raise Refused(why=f"the mailbox is not disconnected: it is {info.mode.name.lower()}")
    if info.keep_until_ms is not None:
        draft.records.append(MailboxConnected(info.instance))
    draft.records.append(GuardSet(info.instance, Mode.OPEN, token, "", draft.next_modseq()))
    if is_labelled:
        draft.records.append(SettingPut(info.instance, LABEL, None, draft.next_modseq()))


def purge(draft: Draft, token: int) -> None:
    """Destroyed. Gone already: nothing happens."""
    info = find_mailbox(draft.db, draft.instance)
    if info is None:
        _was_purged(draft, token)
        return
    _require_sealed(draft, info, token)
    if info.keep_until_ms is None:
        raise Refused(why="only a soft-deleted mailbox can be purged")
    if info.keep_until_ms > draft.now_ms:
        raise Refused(why=f"the mailbox is kept for {(info.keep_until_ms - draft.now_ms) // 1000:,} s more")
    draft.records.append(MailboxPurged(info.instance))


def raise_head(draft: Draft, modseq: int) -> None:
    """The mailbox's change numbers start beyond `modseq`."""
    if modseq > draft.info.head:
        draft.see_modseq(modseq)
        draft.records.append(HeadRaised(draft.instance, modseq))
