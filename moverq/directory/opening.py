"""Which directory a root has: its own file, or the LDAP server that `directory.toml` names.

    <root>/directory.sqlite     the root's own
           directory.toml       or: where it is kept (`ldap_settings`)

One of the two. Several roots, on several hosts, may share an LDAP directory; a file is for one host.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import attrs
import trio

from moverq.directory.directory import Directory
from moverq.directory.ldap_settings import LdapSettings, read_settings
from moverq.directory.sqlite import init_directory, open_directory
from moverq.errors import EndpointBroken, NotFound, RequestRefused

SQLITE = "directory.sqlite"
SETTINGS = "directory.toml"


@attrs.frozen(kw_only=True)
class DirectoryKind:
    """What `find_directory` found."""

    kind: str
    """`sqlite` or `ldap`."""
    where: str
    settings: LdapSettings | None = None


async def make_directory(root: Path, *, organisation: str, settings_file: Path | None = None) -> None:
    """The root has a directory: a file of its own, or the one that `settings_file` leads to. Cut short, it may simply
    be asked for again.

    Durable: on return.

    Raises:
        RequestRefused: it has one already, or the settings are wrong, or are another organisation's.
        EndpointUnavailable, EndpointBroken: the file cannot be written, or the server is away or refuses.
    """
    if settings_file is None:
        if await trio.Path(root / SETTINGS).exists():
            raise RequestRefused(why=f"{root} has its directory in LDAP already, see {root / SETTINGS}")
        await init_directory(root / SQLITE, organisation=organisation)
        return
    if await trio.Path(root / SQLITE).exists():
        raise RequestRefused(why=f"{root} has a directory of its own already; nothing was changed")
    settings = await trio.to_thread.run_sync(read_settings, settings_file)
    ldap = _ldap()
    await ldap.init_ldap_directory(settings, organisation=organisation)
    await trio.to_thread.run_sync(_keep, settings_file, root / SETTINGS)


async def find_directory(root: Path) -> DirectoryKind:
    """Raises `NotFound` where there is none, `RequestRefused` where its settings are wrong."""
    if await trio.Path(root / SETTINGS).exists():
        settings = await trio.to_thread.run_sync(read_settings, root / SETTINGS)
        return DirectoryKind(kind="ldap", where=f"{settings.uri} {settings.configuration}", settings=settings)
    if await trio.Path(root / SQLITE).exists():
        return DirectoryKind(kind="sqlite", where=str(root / SQLITE))
    raise NotFound(
        kind="moverq root",
        name=f"at {root}; make one with `moverq init --root {root}`, or say where it is with --root or MOVERQ_ROOT",
    )


@asynccontextmanager
async def open_directory_of(root: Path) -> AsyncIterator[Directory]:
    """The directory of this root, closed on leaving. Raises as `find_directory`, and what opening it raises."""
    found = await find_directory(root)
    if found.settings is None:
        async with open_directory(root / SQLITE) as file:
            yield file
    else:
        async with _ldap().open_ldap_directory(found.settings) as server:
            yield server


def _ldap() -> ModuleType:
    """The LDAP back end, which is an extra. Raises `RequestRefused`."""
    try:
        from moverq.directory import ldap
    except ModuleNotFoundError as error:
        raise RequestRefused(why="a directory in LDAP needs an extra: pip install 'moverq[ldap]'") from error
    return ldap


def _keep(given: Path, kept: Path) -> None:
    """Blocking. A copy, whole or not there; it has no secret in it."""
    try:
        part = kept.with_suffix(".part")
        with part.open("wb") as file:
            file.write(given.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        part.rename(kept)
        folder = os.open(kept.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise EndpointBroken(endpoint=str(kept), why=f"cannot be written: {error.strerror}") from error
