"""A mailbox's quota, as its settings have it."""

from collections.abc import Mapping


def quota_bytes_of(settings: Mapping[str, str], *, otherwise: int | None = None) -> int | None:
    """What the mailbox itself keeps to; `otherwise` where it says nothing."""
    quota = settings.get("quota_bytes", "")
    return int(quota) if quota.isdecimal() else otherwise
