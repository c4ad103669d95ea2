"""Which versions stand behind two databases, and so whether a move between them goes online."""

from moverq.directory.directory import Directory
from moverq.errors import NotFound
from moverq.plan.versions import VersionDecision, decide


async def decide_versions(directory: Directory, source_database: str, target_database: str) -> VersionDecision:
    """By the versions of the servers that host the two. Raises `NotFound` for a database nobody knows.

    Two questions for all of them, rather than four for two: an organisation has a few hundred at most.
    """
    hosts = {entry.name: entry.server for entry in await directory.databases()}
    versions = {server.name: server.version for server in await directory.servers()}
    found = []
    for database in (source_database, target_database):
        if database not in hosts:
            raise NotFound(kind="database", name=database)
        if hosts[database] not in versions:
            raise NotFound(kind="server", name=hosts[database])
        found.append(versions[hosts[database]])
    return decide(*found)
