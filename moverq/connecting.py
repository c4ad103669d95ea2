"""Mailboxes that nobody has any more, and bringing one back: Exchange's disconnected mailboxes, and Connect-Mailbox.

A mailbox is disconnected by `mailbox remove` (`Removed`), or as the old one of a completed move (`Moved`), and kept for
its retention. Only a removed one is connected again: of one that was moved its user has a newer one. The two are told
apart by where the retired instance sends its clients: a removed one to itself.

Connecting is four writes: the database keeps the mailbox a day more, under a token that no purge knows; the directory
has the recipient, which no upkeep purges; then its aliases; the mailbox is open, and its label gone. Cut short before
the second it is still a disconnected mailbox, kept a day more at most; after it, an address whose mailbox is not there
yet, and the same command goes on from it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING

import attrs

from moverq.directory.directory import Directory, Recipient, checked_address
from moverq.endpoints.base import Home
from moverq.errors import NotFound, RequestRefused
from moverq.flow.clock import now_ms
from moverq.model.ids import InstanceId, MailboxId
from moverq.model.label import Label
from moverq.model.quota import quota_bytes_of

if TYPE_CHECKING:
    from moverq.endpoints.store import StoreEndpoint

KEPT_AT_LEAST_MS = 86_400_000
"""From the first write on: what is left of the connecting takes moments, or is begun again by whoever looks next."""
REMOVED = "Removed"
MOVED = "Moved"


@attrs.frozen(kw_only=True)
class Disconnected:
    """A mailbox instance that is nobody's home."""

    mailbox_id: MailboxId
    home: Home
    token: int
    address: str | None
    """None: it was removed by a release that did not note it, or its user was removed since."""
    aliases: tuple[str, ...]
    reason: str
    """`Removed` or `Moved`."""
    moved_to: str | None
    items: int
    bytes: int
    quota_bytes: int | None
    removed_ms: int | None
    kept_until_ms: int | None
    """None: nothing purges it. Its removal was cut short, or the request of its move was removed while it soaked."""


async def find_disconnected(
    endpoint: "StoreEndpoint", recipients: Mapping[MailboxId, Recipient]
) -> Sequence[Disconnected]:
    """Those in one database, oldest first. One whose connecting was cut short is still among them.

    `recipients`: all that the directory has.
    """
    from moverq.endpoints.store import is_for_movers, label_of, moved_to, translated

    found = []
    with translated(endpoint.name):
        for info in await endpoint.database.mailboxes():
            owner, elsewhere = recipients.get(MailboxId(info.mailbox_id)), moved_to(info)
            is_used = owner is not None and (
                elsewhere is None
                or owner.active_move is not None
                or owner.register.home.instance == InstanceId(info.instance)
            )
            if is_for_movers(info) or (info.keep_until_ms is None and is_used):
                continue  # the last: with its move's claim ends what a retired one is good for
            _, folders, settings = await endpoint.database.account(info.instance)
            label = Label.from_text(label_of(settings))
            mailbox_id = MailboxId(info.mailbox_id) if label is None else label.mailbox_id
            if info.keep_until_ms is None and elsewhere is None and (label is None or mailbox_id in recipients):
                continue  # in use; or nothing says whose it was: `store header` shows what is known
            address, aliases = (None, ()) if label is None else (label.address, label.aliases)
            if elsewhere is not None and owner is not None:
                address, aliases = owner.address, ()
            found.append(
                Disconnected(
                    mailbox_id=mailbox_id,
                    home=Home(endpoint.name, InstanceId(info.instance)),
                    token=info.token,
                    address=address,
                    aliases=aliases,
                    reason=REMOVED if elsewhere is None else MOVED,
                    moved_to=None if elsewhere is None else elsewhere.database,
                    items=sum(folder.items for folder in folders),
                    bytes=sum(folder.bytes for folder in folders),
                    quota_bytes=quota_bytes_of(settings),
                    removed_ms=label.removed_ms if label is not None and elsewhere is None else None,
                    kept_until_ms=info.keep_until_ms,
                )
            )
    return found


@attrs.frozen(kw_only=True)
class Connected:
    """A mailbox that somebody has again."""

    recipient: Recipient
    items: int
    bytes: int
    aliases_taken: tuple[str, ...]
    """Addresses it had that are another mailbox's now."""


async def connect_mailbox(
    directory: Directory,
    address: str,
    *,
    instance: str | None,
    found: Sequence[Disconnected],
    stores: "Callable[[str], Awaitable[StoreEndpoint]]",
) -> Connected:
    """The removed mailbox is open again, and the address is its. Asked for again after a crash, it goes on.

    `found`: the disconnected mailboxes that may be meant. `instance`: the beginning of the id of the one that is; then
    the address may be another than it had.

    Raises:
        NotFound: it has been purged at this moment.
        RequestRefused: no disconnected mailbox had the address; it has a mailbox; several had it; or the one there is
            was moved away.
        StaleToken: somebody else connects it, or removes it, at the same moment.
    """
    normal = checked_address(address)
    try:
        owner = await directory.locate(normal)
    except NotFound:
        owner = None
    one = _meant(normal, owner, found, instance)
    endpoint = await stores(one.home.database)
    if owner is None:
        with suppress(NotFound):
            other = (await directory.recipient(one.mailbox_id)).address
            raise RequestRefused(
                why=f"it is {other} already: `moverq mailbox connect {quote(other)}` goes on with that"
            )
        token = one.token + 1
    else:
        token = await directory.take_token(one.mailbox_id)
        while token < one.token:
            token = await directory.take_token(one.mailbox_id)
    await endpoint.keep(one.home.instance, token, until_ms=now_ms() + KEPT_AT_LEAST_MS)
    if owner is None:
        await directory.add_recipient(one.mailbox_id, normal, one.home, quota_bytes=one.quota_bytes, token=token)
    taken = []
    for alias in one.aliases if normal == one.address else ():
        try:
            await directory.add_alias(one.mailbox_id, alias)
        except RequestRefused:
            taken.append(alias)
    await endpoint.connect(one.home.instance, token)
    return Connected(
        recipient=await directory.recipient(one.mailbox_id),
        items=one.items,
        bytes=one.bytes,
        aliases_taken=tuple(taken),
    )


def _meant(address: str, owner: Recipient | None, found: Sequence[Disconnected], instance: str | None) -> Disconnected:
    """The one to be connected. Raises `RequestRefused`."""
    if instance is None:
        had = [one for one in found if one.address == address]
    else:
        had = [one for one in found if instance and one.home.instance.hex().startswith(instance.lower())]
    if owner is not None:
        begun = [one for one in found if one.home == owner.register.home and (instance is None or one in had)]
        if begun and begun[0].reason == REMOVED:
            return begun[0]
        if begun:
            raise RequestRefused(
                why=f"{address} is at home in {begun[0].home.database}, and its mailbox there was moved to "
                f"{begun[0].moved_to}, which is newer: has the directory fallen back? Nothing was changed"
            )
        raise RequestRefused(
            why=f"{address} has a mailbox, in {owner.register.home.database}: "
            + (
                "the removed one may get another address, with --instance"
                if any(one.reason == REMOVED for one in had)
                else "no other was removed. The old one of a move comes back by `moverq move rollback`, while it soaks"
            )
        )
    removed = [one for one in had if one.reason == REMOVED]
    if len(removed) == 1:
        return removed[0]
    if removed:
        which = ", ".join(f"{one.home.instance.hex()} in {one.home.database}" for one in removed)
        raise RequestRefused(why=f"{len(removed)} removed mailboxes are meant: name one with --instance: {which}")
    if had:
        raise RequestRefused(
            why=f"the mailbox in {had[0].home.database} was moved to {had[0].moved_to} before it was removed: connect "
            f"the one there, if it is kept still"
        )
    whose = f"of {address}" if instance is None else f"whose instance begins with {instance!r}"
    raise RequestRefused(
        why=f"there is no disconnected mailbox {whose} (any more): `moverq mailbox list --disconnected` shows those "
        f"there are. One in a mail system is there still, and `moverq mailbox add` registers it again"
    ) from NotFound(kind="disconnected mailbox", name=whose)


__all__ = ["Connected", "Disconnected", "connect_mailbox", "find_disconnected"]
