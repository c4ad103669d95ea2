"""`moverq store`: databases on the disk. A database is named as in the directory, or by the path of its folder."""

from collections.abc import Callable
from typing import Annotated

import attrs
from cyclopts import App, Parameter

from moverq.cli.common import FAILED, ROOT, Exit, JsonOption, RootOption, StatusLine, answer, pairs, say, table
from moverq.words import counted

app = App(name="store", help="Databases on the disk: check, rebuild, look into, keep in order.")

Name = Annotated[str, Parameter(name="DB", help="A database's name, or the path of its folder.")]


@app.command
async def check(name: Name, /, *, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """Verify a database: log, every item's bytes, sums, and the catalogue against the log. It may be in use."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        with StatusLine() as line:
            report = await opened.store_check(name, progress=_shown_on(line))
    found = {"database": name, **attrs.asdict(report), "path": str(report.path), "ok": report.ok}
    shown = {key: value for key, value in found.items() if key not in ("problems", "problems_total", "ok")}
    verdict = "whole" if report.ok else counted(report.problems_total, "problem")
    answer(found, [*report.problems, *pairs({**shown, "verdict": verdict})], json=json)
    if not report.ok:
        say("`moverq store rebuild` makes the catalogue anew; damaged items are bad items of a move, and reported.")
        raise Exit(FAILED)


@app.command
async def rebuild(
    name: Name,
    /,
    *,
    from_content: Annotated[
        bool, Parameter(help="Where the log is lost too: from the items' own frames. Forgets much, and says what.")
    ] = False,
    root: RootOption = ROOT,
    json: JsonOption = False,
) -> None:
    """Make a database's catalogue anew, from its newest checkpoint and its log. Nobody may have it open."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        with StatusLine() as line:
            done = await opened.store_rebuild(name, from_content=from_content, progress=_shown_on(line))
    report = done.report
    found = {
        "database": name,
        **attrs.asdict(report),
        "path": str(report.path),
        "opened": list(done.opened),
        "held": list(done.held),
        "made": list(done.made),
    }
    lines = [
        f"rebuilt {name} from {report.source}: {counted(report.mailboxes, 'mailbox', 'mailboxes')}, "
        f"{counted(report.items, 'item')}"
    ]
    lines += [f"damaged: {one}" for one in report.damage]
    lines += [f"not known any more: {one}" for one in report.unknown]
    lines += [f"opened again: {one}" for one in done.opened]
    lines += [f"made again, empty: {one}" for one in done.made]
    lines += [f"still locked, its move goes on or is removed: {one}" for one in done.held]
    answer(found, lines, json=json)


@app.command
async def header(name: Name, /, *, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """Show where a database stands: its timeline, its log, the mailbox instances in it and who knows of them."""
    from moverq.endpoints.store import open_endpoint
    from moverq.root import open_root

    async with open_root(root) as opened:
        path = await opened.database_path(name)
        known = await opened.database_named(name)
        async with open_endpoint(known, path) as endpoint:
            found = attrs.asdict(await endpoint.database.statistics())
            instances = await opened.instances(known, endpoint)
    del found["commits"], found["transactions"]  # of this process: none
    found = {"database": name, "path": str(path), **found}
    rows = [
        [one.instance, one.guard, f"{one.items:,}", f"{one.bytes:,}", one.known_to or "nobody"] for one in instances
    ]
    answer(
        {**found, "instances": [attrs.asdict(one) for one in instances]},
        [*pairs(found), "", *table(rows, head=["INSTANCE", "GUARD", "ITEMS", "BYTES", "KNOWN TO"], right=[2, 3])],
        json=json,
    )


@app.command
async def checkpoint(name: Name, /, *, root: RootOption = ROOT) -> None:
    """Seal a copy of the catalogue, and trim the log that nothing needs any more."""
    from moverq.endpoints.store import open_endpoint
    from moverq.root import open_root

    async with open_root(root) as opened:
        path = await opened.database_path(name)
        async with open_endpoint(name, path) as endpoint:
            made = await endpoint.database.checkpoint()
    answer(None, f"checkpoint of {name} at {made.head.position}", json=False)


@app.command
async def maintain(name: Name, /, *, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """What time brings: purge mailboxes and items that were deleted long enough ago, cut feeds, drop dead segments,
    checkpoint if due."""
    from moverq.endpoints.store import open_endpoint
    from moverq.root import open_root
    from moverq.upkeep import purge_removed

    async with open_root(root) as opened:
        path = await opened.database_path(name)
        async with open_endpoint(name, path) as endpoint:
            mailboxes = await purge_removed(endpoint, opened.directory)
            done = {"mailboxes_purged": mailboxes, **attrs.asdict(await endpoint.database.maintain())}
    answer(done, pairs(done), json=json)


def _shown_on(line: StatusLine) -> Callable[[str, int, int], None]:
    def show(what: str, done: int, total: int) -> None:
        line(f"{what} {100 * done // total} %" if total else what)

    return show
