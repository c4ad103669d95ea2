"""Who may write to a mailbox instance, checked inside the commit; and the transitions of the guard.

    OPEN ⇄ LOCKED → RETIRED ⇄ SEALED → OPEN

Clients and deliveries write only while open; a mover only while sealed or retired, with its token. A lower token than
the stored one changes nothing (`StaleToken`); a higher one is stored with the effect. No transition happens by itself:
a lock never expires. Pure but for reading the draft.
"""

from store.catalogue.queries import MailboxInfo, find_mailbox
from store.commit import Draft
from store.errors import MailboxLocked, MailboxMoved, MailboxSealed, Refused, StaleToken
from store.ids import MailboxId
from store.records import GuardSet, HeadRaised, MailboxMade, MailboxPurged, MailboxRemoved, Mode


def require_client(info: MailboxInfo) -> None:
    """A client or a delivery may write. Raises `MailboxLocked`, `MailboxMoved`, `MailboxSealed`."""
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
    info = draft.info
    require_token(info, token)
    if info.mode not in (Mode.SEALED, Mode.RETIRED):
        raise Refused(why=f"a mover may not write to a mailbox that is {info.mode.name.lower()}")
    if token > info.token:
        draft.records.append(GuardSet(info.instance, info.mode, token, info.home, 0))


def make(draft: Draft, mailbox_id: MailboxId, *, mode: Mode, token: int) -> None:
    """The instance exists. One that exists sealed with this mailbox id is claimed."""
    info = find_mailbox(draft.db, draft.instance)
    if info is None:
        draft.records.append(MailboxMade(draft.instance, mailbox_id, mode, token, draft.now_ms))
        return
    if info.mailbox_id != mailbox_id or info.mode is not mode:
        raise Refused(why=f"instance {draft.instance.hex()} exists already and is {info.mode.name.lower()}")
    claim(draft, token)


def claim(draft: Draft, token: int) -> None:
    """Every lower token is stale from now on; the mode stays."""
    info = draft.info
    require_token(info, token)
    if token > info.token:
        draft.records.append(GuardSet(info.instance, info.mode, token, info.home, 0))


def _move(draft: Draft, token: int, *, allowed: tuple[Mode, ...], to: Mode, home: str = "") -> int:
    info = draft.info
    require_token(info, token)
    if info.mode not in allowed:
        raise Refused(why=f"a mailbox that is {info.mode.name.lower()} cannot become {to.name.lower()}")
    if (info.mode, info.home, info.token, info.keep_until_ms) == (to, home, token, None):
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
    return _move(draft, token, allowed=(Mode.LOCKED, Mode.SEALED, Mode.RETIRED), to=Mode.RETIRED, home=home)


def seal(draft: Draft, token: int) -> int:
    """A retired (or soft-deleted) instance becomes a move's target."""
    return _move(draft, token, allowed=(Mode.SEALED, Mode.RETIRED), to=Mode.SEALED)


def open_(draft: Draft, token: int) -> int:
    """Clients may write: only after the directory says so."""
    return _move(draft, token, allowed=(Mode.SEALED, Mode.RETIRED, Mode.OPEN), to=Mode.OPEN)


def remove(draft: Draft, token: int, *, keep_until_ms: int) -> None:
    """Soft-deleted: kept until the date, then to be purged."""
    info = draft.info
    require_mover(draft, token)
    if info.keep_until_ms is None:
        draft.records.append(MailboxRemoved(info.instance, keep_until_ms))


def purge(draft: Draft, token: int) -> None:
    """Destroyed. Gone already: nothing happens."""
    info = find_mailbox(draft.db, draft.instance)
    if info is None:
        return
    require_mover(draft, token)
    if info.keep_until_ms is None:
        raise Refused(why="only a soft-deleted mailbox can be purged")
    draft.records.append(MailboxPurged(info.instance))


def raise_head(draft: Draft, modseq: int) -> None:
    """The mailbox's change numbers start beyond `modseq`."""
    if modseq > draft.info.head:
        draft.see_modseq(modseq)
        draft.records.append(HeadRaised(draft.instance, modseq))
