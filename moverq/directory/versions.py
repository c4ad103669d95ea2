"""Which versions stand behind two databases, and so whether a move between them goes online."""

from moverq.directory.directory import Directory
from moverq.plan.versions import VersionDecision, decide


async def decide_versions(directory: Directory, source_database: str, target_database: str) -> VersionDecision:
    """By the versions of the servers that host the two. Raises `NotFound` for a database nobody knows."""
    source = await directory.server((await directory.database(source_database)).server)
    target = await directory.server((await directory.database(target_database)).server)
    return decide(source.version, target.version)
