"""Mail that is gone all at once, which is mostly a disk that is not mounted or a backup that was put back, and seldom a
user's doing.

What a server does not list counts as deleted, and a mover who believes it deletes it at the other side; a cutover in
that hour would prove both sides equal, and empty. So where nearly all of a mailbox is gone between two looks the server
is not believed before it has said so for a day. Moved mail comes again elsewhere, so it is no loss; nor is a folder
whose UIDVALIDITY changed.
"""

from typing import Final

from moverq.endpoints.mirrored.mirror import Mirror
from moverq.flow.sqlite import transaction
from moverq.model.statistics import iso

EMPTIED_ITEMS: Final = 1_000
EMPTIED_SHARE: Final = 0.9
"""So many messages, and so much of all there were: less is believed at once."""
BELIEVED_AFTER_MS: Final = 24 * 3600 * 1000


def doubt(mirror: Mirror, *, lost: int, new: int, now_ms: int) -> str:
    """Why a look that has lost so many messages and found so many new ones is not believed yet; "" where it is.
    Blocking."""
    known = sum(items for (items,) in mirror.db.execute("SELECT items FROM sums"))
    gone = lost - new
    if gone < EMPTIED_ITEMS or gone < EMPTIED_SHARE * known:
        return ""
    since_ms = _since_ms(mirror)
    if since_ms is None:
        since_ms = now_ms
        with transaction(mirror.db):
            mirror.db.execute("INSERT INTO emptied VALUES (1, ?)", (since_ms,))
    believed_ms = since_ms + BELIEVED_AFTER_MS
    if now_ms >= believed_ms:
        return ""
    return (
        f"{gone:,} of {known:,} messages are gone, all at once: is its mail there? If they were deleted, that is "
        f"believed from {iso(believed_ms)} on"
    )


def forget(mirror: Mirror) -> None:
    """A look was believed: the next time begins anew. Blocking."""
    if _since_ms(mirror) is not None:
        with transaction(mirror.db):
            mirror.db.execute("DELETE FROM emptied")


def _since_ms(mirror: Mirror) -> int | None:
    row = mirror.db.execute("SELECT since_ms FROM emptied").fetchone()
    return row[0] if row is not None else None


__all__ = ["doubt", "forget"]
