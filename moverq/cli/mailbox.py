"""`moverq mailbox`: mailboxes, and mail into and out of them."""

import json as jsonlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from moverq.cli.common import (
    FAILED,
    ROOT,
    Exit,
    JsonOption,
    RootOption,
    StatusLine,
    answer,
    pairs,
    say,
    size,
    table,
    to_seconds,
)
from moverq.words import counted

if TYPE_CHECKING:
    from moverq.mailbox_files import Exported, Imported

app = App(name="mailbox", help="Mailboxes: add, look at, import to, export from, remove, bring back.")

NOT_MAIL_SHOWN = 20


@app.command
async def add(
    address: str,
    /,
    *,
    database: Annotated[str, Parameter(help="The database it lives in.")],
    quota: Annotated[int | None, Parameter(help="Bytes it may hold.")] = None,
    root: RootOption = ROOT,
) -> None:
    """Make an empty mailbox for a new address."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        recipient = await opened.mailbox_add(address, database=database, quota_bytes=quota)
    answer(None, f"mailbox {recipient.address} in {recipient.register.home.database}", json=False)


@app.command
async def remove(
    address: str,
    /,
    *,
    force: Annotated[bool, Parameter(negative=(), help="Also one that holds items.")] = False,
    old: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Instead of it the old mailboxes of its moves whose requests were removed with `--force`.",
        ),
    ] = False,
    retention: Annotated[
        float,
        Parameter(
            converter=to_seconds,
            metavar="DURATION",
            help="How long it is kept before it is purged; 30d if not given.",
        ),
    ] = 30 * 86400.0,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Take a mailbox and its addresses out of the directory, and soft-delete it.

    It is purged after its retention; before, `mailbox connect` brings it back. In a mail system it stays as it is. As
    long as a move request names it, it is not removed.
    """
    from moverq.model.statistics import iso
    from moverq.root import open_root

    async with open_root(root) as opened:
        if old:
            gone = await opened.mailbox_remove_old(address, retention_s=retention)
        else:
            gone = [await opened.mailbox_remove(address, retention_s=retention, force=force)]
    values = [
        {
            "address": one.address,
            "database": one.database,
            "instance": one.instance,
            "items": one.items,
            "bytes": one.bytes,
            "kept_until": iso(one.keep_until_ms),
        }
        for one in gone
    ]
    told = []
    for one in gone:
        what = f"the old mailbox in {one.database} of" if old else "mailbox"
        kept = f"{counted(one.items, 'item')} kept until {iso(one.keep_until_ms)}"
        stays = f"what is in {one.database} stays as it is"
        told.append(f"{what} {one.address} is removed; {stays if one.keep_until_ms is None else kept}")
    answer(values if old else values[0], told, json=json)


@app.command(name="list")
async def list_(
    *,
    database: Annotated[str | None, Parameter(help="Only those that live there.")] = None,
    disconnected: Annotated[
        bool, Parameter(negative=(), help="Instead those that are soft-deleted, removed or moved away, and kept still.")
    ] = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """List the mailboxes, by address, as the directory has them.

    With `--disconnected` those that nobody has any more, as their databases have them: `mailbox connect` brings back
    what was removed; what was moved away is the old mailbox of a move whose soak is over.
    """
    from moverq.root import open_root

    if disconnected:
        await _list_disconnected(database, root=root, json=json)
        return
    async with open_root(root) as opened:
        if database is not None:
            await opened.directory.database(database)
        found = await opened.mailbox_list(database=database)
    answer(
        [
            {
                "address": one.address,
                "aliases": list(one.aliases),
                "database": one.register.home.database,
                "epoch": one.register.epoch,
                "active_move": one.active_move,
                "move_status": one.move.status,
            }
            for one in found
        ],
        table(
            [[one.address, one.register.home.database, str(one.register.epoch), one.move.status] for one in found],
            head=["ADDRESS", "DATABASE", "EPOCH", "MOVE"],
            right=[2],
        ),
        json=json,
    )


async def _list_disconnected(database: str | None, *, root: Path, json: bool) -> None:
    from moverq.model.statistics import iso
    from moverq.root import open_root

    async with open_root(root) as opened:
        found = sorted(await opened.mailbox_disconnected(database=database), key=lambda one: one.address or "")
    values = [
        {
            "address": one.address,
            "aliases": list(one.aliases),
            "database": one.home.database,
            "instance": one.home.instance.hex(),
            "reason": one.reason,
            "moved_to": one.moved_to,
            "items": one.items,
            "bytes": one.bytes,
            "removed": iso(one.removed_ms),
            "kept_until": iso(one.kept_until_ms),
        }
        for one in found
    ]
    rows = [
        [
            one.address or "(not known)",
            one.home.database,
            one.home.instance.hex(),
            f"{one.items:,}",
            one.reason if one.moved_to is None else f"{one.reason} to {one.moved_to}",
            iso(one.removed_ms) or "",
            iso(one.kept_until_ms) or "",
        ]
        for one in found
    ]
    head = ["ADDRESS", "DATABASE", "INSTANCE", "ITEMS", "REASON", "REMOVED", "KEPT UNTIL"]
    answer(values, table(rows, head=head, right=[3]), json=json)


@app.command
async def connect(
    address: str,
    /,
    *,
    database: Annotated[str | None, Parameter(help="Look for it only there.")] = None,
    instance: Annotated[
        str | None,
        Parameter(
            help="Which one, by the beginning of its id in `mailbox list --disconnected`: where several had the "
            "address, or the address is to be another."
        ),
    ] = None,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Bring back a mailbox that was removed and has not been purged: its user has it again, with all that was in it.

    `moverq mailbox list --disconnected` shows those there are. With its address come its aliases, as far as nobody has
    them by now. An address that has a mailbox is refused; so is the old mailbox of a move, whose user has a newer one:
    in its soak `move rollback` takes a move back. Cut short, the same command goes on from there.
    """
    from moverq.root import open_root

    async with open_root(root) as opened:
        back = await opened.mailbox_connect(address, database=database, instance=instance)
    who, home = back.recipient, back.recipient.register.home
    for alias in back.aliases_taken:
        say(f"not an alias of it any more: {alias} is another mailbox's")
    answer(
        {
            "address": who.address,
            "aliases": list(who.aliases),
            "database": home.database,
            "instance": home.instance.hex(),
            "items": back.items,
            "bytes": back.bytes,
            "aliases_taken": list(back.aliases_taken),
        },
        f"mailbox {who.address} is back in {home.database}: {counted(back.items, 'item')}, {size(back.bytes)}",
        json=json,
    )


@app.command
async def show(address: str, /, *, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """Show one mailbox: where it is, how often that was decided, what is in it."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        shown = await opened.mailbox_show(address)
    head = {
        "address": shown.address,
        "aliases": ", ".join(shown.aliases) or None,
        "database": shown.database,
        "epoch": shown.epoch,
        "guard": shown.guard,
        "items": f"{shown.items:,}",
        "bytes": f"{shown.bytes:,}",
        "folders": shown.folders,
        "quota_bytes": None if shown.quota_bytes is None else f"{shown.quota_bytes:,}",
        "move": shown.move_status if shown.active_move is None else f"{shown.move_status} ({shown.active_move})",
        **{f"setting {name}": text for name, text in sorted(shown.settings.items())},
    }
    rows = [
        [folder.path + (" (hidden)" if folder.hidden else ""), f"{folder.items:,}", f"{folder.bytes:,}"]
        for folder in shown.folder_list
    ]
    answer(
        shown.to_json(),
        [*pairs(head), "", *table(rows, head=["FOLDER", "ITEMS", "BYTES"], right=[1, 2])],
        json=json,
    )


@app.command(name="import")
async def import_(
    address: str,
    path: Path,
    /,
    *,
    append: Annotated[bool, Parameter(help="Add every message, also those that are there already.")] = False,
    owner: Annotated[
        str | None, Parameter(help="With whose rights root reads the files; not given: of whose they are.")
    ] = None,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Import a Maildir, an mbox or a folder of .eml files; the format is found.

    Importing the same files again adds nothing: a folder gets as many copies of a message as the files hold, less
    those it has. So an import that was cut short is asked for again. What is no mail is reported, and left out.
    """
    from moverq.mailbox_files import Imported
    from moverq.root import open_root

    done = Imported()
    ended = False
    try:
        async with open_root(root) as opened:
            with StatusLine() as line:
                await opened.mailbox_import(
                    address, path, append=append, owner=owner, done=done, on_batch=_counted_on(line, "imported")
                )
        ended = True
    finally:
        if not ended and done.items:
            say(f"{counted(done.items, 'message')} imported so far; the same command goes on from there")
    for one in done.refused[:NOT_MAIL_SHOWN]:
        say(f"not imported: {one.path}: {one.why}")
    if len(done.refused) > NOT_MAIL_SHOWN:
        say(f"not imported: {len(done.refused) - NOT_MAIL_SHOWN:,} more; --json names them all")
    value = {
        "address": address,
        "items": done.items,
        "bytes": done.bytes,
        "present": done.present,
        "folders_made": done.folders,
        "not_imported": [{"path": one.path, "why": one.why} for one in done.refused],
    }
    there = f", {done.present:,} were there already" if done.present else ""
    lost = sum(one.may_be_mail for one in done.refused)
    other = len(done.refused) - lost
    left = f", {counted(other, 'file')} left out as no mail" if other else ""
    left += f", {lost:,} could not be imported" if lost else ""
    answer(value, f"imported {counted(done.items, 'message')}, {size(done.bytes)}{there}{left}", json=json)
    if lost or (done.refused and not done.items and not done.present):
        raise Exit(FAILED)


@app.command
async def export(
    address: str,
    path: Path,
    /,
    *,
    format: Annotated[Literal["maildir", "mbox", "eml"], Parameter(help="What to write.")] = "maildir",
    owner: Annotated[
        str | None,
        Parameter(help="With whose rights root writes the files; not given: of whose folder they are made in."),
    ] = None,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Export a mailbox to a new folder: bytes, dates, flags and keywords, as `mailbox import` reads them.

    Deleted (recoverable) items and empty folders are left out. The mailbox may be in use, and move, meanwhile.
    """
    from moverq.mailbox_files import Exported
    from moverq.root import open_root

    done = Exported()
    async with open_root(root) as opened:
        with StatusLine() as line:
            await opened.mailbox_export(
                address, path, form=format, owner=owner, done=done, on_batch=_counted_on(line, "exported")
            )
    for one in done.damaged:
        say(f"not exported: {one}")
    value = {
        "address": address,
        "path": str(path),
        "format": format,
        "items": done.items,
        "bytes": done.bytes,
        "damaged": done.damaged,
    }
    answer(value, f"exported {counted(done.items, 'message')}, {size(done.bytes)}, to {path}", json=json)
    if done.damaged:
        raise Exit(FAILED)


@app.command(name="set")
async def set_(
    address: str,
    name: str,
    value: Annotated[str, Parameter(help="JSON: a number, a text, a list, an object; null removes the setting.")],
    /,
    *,
    root: RootOption = ROOT,
) -> None:
    """Give a mailbox setting a value: quota_bytes, rules, acl, out_of_office, retention_days, or your own x-name."""
    from moverq.root import open_root

    try:
        meant = jsonlib.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        meant = value
    async with open_root(root) as opened:
        await opened.mailbox_set(address, name, meant)
    answer(None, f"{name} of {address} is {'not set' if meant is None else jsonlib.dumps(meant)}", json=False)


def _no_number(text: str) -> None:
    """NaN and the infinities, which Python reads and JSON has not."""
    raise ValueError(text)


@app.command
async def alias(address: str, alias: str, /, *, root: RootOption = ROOT) -> None:
    """Let a mailbox answer to one more address."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        recipient = await opened.alias_add(address, alias)
    also = f"is also {', '.join(recipient.aliases)}" if recipient.aliases else "has no other address"
    answer(None, f"{recipient.address} {also}", json=False)


def _counted_on(line: StatusLine, verb: str) -> "Callable[[Imported | Exported], None]":
    return lambda done: line(f"{verb} {counted(done.items, 'message')}, {size(done.bytes)}")
