"""Every bound of the store, and the sums that relate them.

Memory of one open database, at most: for each of the two lanes, clients' and copies', what waits for its commit
(`QUEUE_BYTES_MAX`), the group being staged and the one being committed (twice `GROUP_BYTES_MAX`) and a buffer of
`STAGE_BYTES`; SQLite's page cache of who commits, and `RECENT_KEYS_MAX` delivery keys; and for each reader a page, a
buffer of `STAGE_BYTES` and SQLite's page cache.
"""

KIB = 1024
MIB = 1024 * KIB

BLOCK = 512
"""Log frames are aligned to what a disk writes whole: damage stays inside one frame."""

GENERATION_BYTES_MAX = 16 * MIB
"""A generation rolls when the next frame would pass this; one frame may be larger, and then has one of its own."""

GENERATION_GROW_BYTES = 1 * MIB
"""The current generation is extended by zeros in these steps, so that an append's sync needs no new extents."""

FRAME_BYTES_MAX = 64 * MIB
"""A longer length in a header is damage."""

SEGMENT_BYTES_MAX = 256 * MIB
SEGMENT_GROW_BYTES = 256 * KIB
"""A segment that gets little at a time, up to a fourth of this, is extended by zeros in such steps: most syncs write no
new end of the file then, and take half as long."""
CONTENT_ALIGN = 64
DIRECT_ALIGN = 4096
"""What goes to a segment together begins and ends at such a place: what direct I/O takes on every disk, and a page, so
that nobody reads through the page cache what is still being written beside it."""
STAGE_BYTES = 4 * MIB
"""A segment is written in pieces of this size, and read so for bulk reading: one buffer each, for as long as the
database is open."""
CONTENT_BYTES_MAX = 2 * 1024 * MIB - 1

GROUP_BYTES_MAX = 8 * MIB
"""Content committed together; one larger transaction goes alone."""

GROUP_ITEMS_MAX = 16_384
"""Items that one commit touches; what keeps its frame below `FRAME_BYTES_MAX` in all but absurd cases (refused)."""
COPIED_ITEMS_MAX = 256
"""Items of a bulk copy that are one transaction and one commit: less than 10 ms during which a delivery waits."""
STAGED_BY_COMMITTER_BYTES_MAX = 256 * KIB
"""A group's content up to this, where no commit is going on, is not worth a thread hop of its own."""

QUEUE_BYTES_MAX = 32 * MIB

FETCH_BYTES_MAX = 8 * MIB
FEED_CHANGES_MAX = 4096

FOLDERS_MAX = 50_000
FOLDER_DEPTH_MAX = 100
FOLDER_NAME_BYTES_MAX = 1024
KEYWORDS_MAX = 1024
"""On one item."""
KEYWORD_BYTES_MAX = 256
SETTING_BYTES_MAX = 1 * MIB

DELIVERY_KEYS_KEPT_S = 14 * 86400
"""Longer than an MTA keeps a message in its queue (RFC 5321 §4.5.4.1: 4 to 5 days)."""
RECOVERABLE_KEPT_S = 14 * 86400
"""DeletedItemRetention, Exchange's default."""

WATCH_PERIOD_S = 0.005
COMMIT_CACHE_BYTES = 4 * MIB
"""SQLite's page cache of the connection that commits: the upper levels of every index, and the pages that grow."""
RECENT_KEYS_MAX = 1024
"""Delivery keys that every process that commits remembers, some 0.3 MB, and that then go to the index together: the
mutex is held some 5 ms longer once in so many deliveries."""
FOLD_PAGES = 4000
"""SQLite's write-ahead log is folded into the catalogue's file when it has grown by so many pages, 16 MB."""
READ_CACHE_BYTES = 1 * MIB
"""That of any other connection."""
READERS = 2
"""Reading connections of one open database, each a thread at most."""
OPEN_SEGMENTS_MAX = 64
"""That one reader keeps open."""
LEASES_MAX = 48
"""Segments that one process may append to at a time: the shared one, and one for each large copy that is under way."""
OWN_SEGMENT_AFTER_BYTES = 16 * MIB
"""A copy that has brought more than this goes on in a segment of its own, which is dropped whole when it is purged."""
CHECKPOINTS_KEPT = 2
CHECKPOINT_LOG_BYTES = 64 * MIB
"""A checkpoint is due when this much log lies above the newest one."""
ITEMS_PER_VERB_MAX = 10_000
"""One transaction's items, below `GROUP_ITEMS_MAX`."""
TOMBSTONES_KEPT = 200_000
"""A mailbox: beyond that the oldest go, and the feed's horizon rises."""
