"""`moverq directory`: where it is kept, and what an LDAP server has to know to keep it."""

from cyclopts import App

from moverq.cli.common import ROOT, JsonOption, RootOption, answer, pairs

app = App(name="directory", help="The directory: where it is kept, and the schema that an LDAP server needs.")


@app.command
async def show(*, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """Show where the directory is kept, and read it once: an LDAP server that is away or refuses is named."""
    import attrs

    from moverq.directory.opening import find_directory
    from moverq.root import absolute, open_root

    found = await find_directory(absolute(root))
    async with open_root(root) as opened:
        value = {
            "kind": found.kind,
            "where": found.where,
            "organisation": await opened.directory.organisation(),
            "servers": len(await opened.server_list()),
            "databases": len(await opened.database_list()),
            "recipients": len(await opened.mailbox_list()),
        }
    names = {} if found.settings is None else attrs.asdict(found.settings.attributes)
    lines = pairs({**value, **{f"attribute {name}": text or "not kept" for name, text in names.items()}})
    answer({**value, "attributes": names}, lines, json=json)


@app.command
async def schema() -> None:
    """Print the schema of moverq's attributes for OpenLDAP, as LDIF for cn=config."""
    from moverq.directory import schema_ldif

    answer(None, schema_ldif().rstrip("\n"), json=False)
