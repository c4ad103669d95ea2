"""The mirror: what the mover knows of one mailbox on an IMAP server, durable, in a SQLite file of its own.

The server names items by (folder, UIDVALIDITY, UID), which moves and server rebuilds change. The mirror gives each
item an id that stays, each change a number, each folder a sum, and keeps what a server cannot: the guard with its
token, tombstones, delivery keys, properties, milliseconds. So it answers the contract's reads by itself, and a mover
who comes back after a crash finds here what was intended and what is known to have happened.

Two kinds of authority, by the guard:
- open, locked: **the server** is right. What differs there is a change, and takes the next number (`learned`).
- sealed, retired: **the mirror** is right. It holds what the mover wants, and `writing` makes the server follow:
  rows without a server UID are on their way there, `due`, `to_move` and `to_expunge` is work to do. What differs at
  the server otherwise is damage, and shows in the sums.

What always holds: `sums` is the sum over the items that have a server UID, changed in the same transaction. A lower
token than the stored one changes nothing. An id in `items_gone` is not in `items`, ever again.

Blocking; `mailbox` calls it through `Offload`, one call a batch. Bounded by: a row an item, about 350 bytes.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import attrs
import msgpack

from moverq.endpoints.base import Guard, GuardMode, Home, MailboxAccount, MailboxSummary
from moverq.endpoints.mirrored.schema import MIRROR_APPLICATION_ID, MIRROR_STEPS
from moverq.errors import FeedTrimmed, NotFound, RequestRefused, StaleToken
from moverq.flow.sqlite import bring_up, close_sqlite, insert_rows, open_sqlite, transaction
from moverq.model.change import (
    NO_PROPERTIES,
    ChangeBatch,
    DeliveryKeyState,
    Flag,
    FolderState,
    Gone,
    ItemState,
    SettingState,
    Watermark,
)
from moverq.model.digest import MODULUS, FolderDigest, item_digest
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id

CACHE_KIB: Final = 4 * 1024
"""Of pages: ids, UIDs and change numbers all rise, so a batch needs the ends of the trees."""
CHECKPOINT_PAGES: Final = 16_000
MOVER_MODES: Final = (GuardMode.SEALED, GuardMode.RETIRED)
NO_FOLDERS: Final[Mapping[bytes, bool]] = {}
STATE: Final = (
    "item_id, folder_id, uid, modseq, received_ms, size, content_hash, flags, keywords, item_class, properties"
)
LOCATED: Final = f"seq, server_uid, normal_hash, {STATE}"
FOLDER: Final = (
    "folder_id, parent_id, name, modseq, uidvalidity, uidnext, special_use, subscribed, hidden, attributes, wire, "
    "native, selectable, server_special, server_subscribed, server_validity, server_uidnext, server_modseq, "
    "server_items, mailbox_object"
)


A_GUESS: Final = -2
"""`server_items` of a folder that may be another one with the same UIDVALIDITY, until it has been looked into."""


class Located(NamedTuple):
    """An item with where it is at the server."""

    seq: int
    server_uid: int
    normal_hash: bytes | None
    state: ItemState


class FolderPlace(NamedTuple):
    """Of a folder, what it takes to write into it or to read from it."""

    folder_id: FolderId
    wire: bytes
    server_validity: int
    selectable: bool


@attrs.frozen(kw_only=True)
class FolderRow:
    """A folder, with what the server calls it and how far it has been looked into."""

    state: FolderState
    wire: bytes
    native: bool = True
    selectable: bool = True
    server_special: str = ""
    server_subscribed: bool = True
    server_validity: int = 0
    server_uidnext: int = 0
    server_modseq: int = 0
    server_items: int = 0
    mailbox_object: bytes = b""

    @property
    def folder_id(self) -> FolderId:
        return self.state.folder_id

    @property
    def server_status(self) -> tuple[int, int, int, int]:
        """As the server said it when the folder was last looked into: UIDVALIDITY, UIDNEXT, HIGHESTMODSEQ, EXISTS."""
        return (self.server_validity, self.server_uidnext, self.server_modseq, self.server_items)


@attrs.frozen(kw_only=True)
class Standing:
    """The mailbox's own row."""

    mailbox_id: MailboxId
    instance: InstanceId
    timeline: bytes
    user: str
    guard: Guard
    head: int
    horizon: int
    hierarchy_head: int
    removed_until_ms: int | None

    @property
    def watermark(self) -> Watermark:
        return Watermark(self.timeline, self.instance, self.head)

    @property
    def is_movers(self) -> bool:
        """Is the mirror right, and not the server?"""
        return self.guard.mode in MOVER_MODES


class Mirror:
    """See the module. `open` or `make` it."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self.db = connection
        self._sums: dict[bytes, list[int]] = {}
        self._pack = msgpack.Packer().pack

    def __repr__(self) -> str:
        return f"<Mirror {self.path.name}>"

    @classmethod
    def make(
        cls,
        path: Path,
        *,
        mailbox_id: MailboxId,
        instance: InstanceId,
        user: str,
        mode: GuardMode,
        token: int,
        were_there: Mapping[bytes, bool] = NO_FOLDERS,
    ) -> "Mirror":
        """The mirror of a mailbox that nobody has looked into yet; one that is there is opened. Durable. `were_there`:
        see the method."""
        path.parent.mkdir(parents=True, exist_ok=True)
        mirror = cls(path, _connect(path, create=True))
        with transaction(mirror.db):
            if mirror.db.execute("SELECT 1 FROM mailbox").get is None:
                mirror.db.execute(
                    "INSERT INTO mailbox (one, mailbox_id, instance, timeline, user, mode, token) "
                    "VALUES (1, ?, ?, ?, ?, ?, ?)",
                    (mailbox_id, instance, new_id(), user, mode.value, token),
                )
                mirror.db.executemany("INSERT INTO were_there VALUES (?, ?)", were_there.items())
        return mirror

    @classmethod
    def open(cls, path: Path, instance: InstanceId) -> "Mirror":
        """Raises `NotFound`."""
        if not path.exists():
            raise NotFound(kind="mailbox instance", name=instance.hex())
        mirror = cls(path, _connect(path, create=False))
        if mirror.db.execute("SELECT 1 FROM mailbox").get is None:
            mirror.close()
            raise NotFound(kind="mailbox instance", name=instance.hex())
        return mirror

    def close(self) -> None:
        close_sqlite(self.db)

    # ---- the guard

    def standing(self, *, removed: bool = False) -> Standing:
        """Raises `NotFound` where it is soft-deleted, unless `removed`."""
        row: tuple[Any, ...] = next(
            self.db.execute(
                "SELECT mailbox_id, instance, timeline, user, mode, token, home_database, home_instance, head, "
                "horizon, hierarchy_head, removed_until_ms FROM mailbox"
            )
        )
        mailbox_id, instance, timeline, user, mode, token, home, home_instance, head, horizon, hierarchy, until = row
        if until is not None and not removed:
            raise NotFound(kind="mailbox instance", name=instance.hex())
        return Standing(
            mailbox_id=mailbox_id,
            instance=instance,
            timeline=timeline,
            user=user,
            guard=Guard(GuardMode(mode), token, Home(home, home_instance) if home is not None else None),
            head=head,
            horizon=horizon,
            hierarchy_head=hierarchy,
            removed_until_ms=until,
        )

    def claim(self, token: int) -> Guard:
        with transaction(self.db):
            return self._claim(token)

    def turn(self, token: int, mode: GuardMode, allowed: Iterable[GuardMode], home: Home | None = None) -> Standing:
        """The guard stands at `mode`. A turn is a change of its own."""
        with transaction(self.db):
            self.check_token(token)
            present = self.standing().guard.mode
            if present not in allowed:
                raise RequestRefused(why=f"the mailbox is {present.value} and cannot become {mode.value}")
            self.db.execute(
                "UPDATE mailbox SET mode = ?, token = ?, home_database = ?, home_instance = ?",
                (mode.value, token, home.database if home else None, home.instance if home else None),
            )
            if mode in MOVER_MODES:
                # From here on the mover gives items UIDs that the server did not: numbers of the mirror's own.
                self.db.execute("UPDATE folders SET native = 0")
            if present is not mode:
                self.raise_head(self.standing().head + 1)
            return self.standing()

    def remove(self, token: int, *, keep_until_ms: int) -> None:
        with transaction(self.db):
            self.check_token(token)
            mode = self.standing(removed=True).guard.mode
            if mode not in MOVER_MODES:
                raise RequestRefused(why=f"the mailbox is {mode.value}; only a sealed or retired one can be removed")
            self.db.execute("UPDATE mailbox SET removed_until_ms = ?, token = ?", (keep_until_ms, token))

    def check_purge(self, token: int, *, now_ms: int) -> None:
        """Raises unless it is soft-deleted and its date has come."""
        self.check_token(token)
        until = self.standing(removed=True).removed_until_ms
        if until is None:
            raise RequestRefused(why="the mailbox is not soft-deleted, so it is not purged")
        if now_ms < until:
            raise RequestRefused(why=f"the mailbox is kept for {until - now_ms} ms more")

    def check_token(self, token: int) -> None:
        (seen,) = next(self.db.execute("SELECT token FROM mailbox"))
        if token < seen:
            raise StaleToken(held=token, seen=seen)

    def check_mover(self, token: int) -> None:
        """Inside a transaction: the mover may write under this token, which is stored."""
        mode = self.standing().guard.mode
        self.check_token(token)
        if mode not in MOVER_MODES:
            raise RequestRefused(why=f"the mailbox is {mode.value}: the mover does not write to it")
        self._claim(token)

    def _claim(self, token: int) -> Guard:
        self.check_token(token)
        self.db.execute("UPDATE mailbox SET token = ?", (token,))
        return self.standing(removed=True).guard

    # ---- change numbers and sums

    def next_modseq(self) -> int:
        """One after another, inside a transaction."""
        (head,) = next(self.db.execute("UPDATE mailbox SET head = head + 1 RETURNING head"))
        assert isinstance(head, int)
        return head

    def take_modseqs(self, count: int) -> int:
        """`count` numbers in a row; the first of them."""
        (head,) = next(self.db.execute("UPDATE mailbox SET head = head + ? RETURNING head", (count,)))
        assert isinstance(head, int)
        return head - count + 1

    def raise_head(self, modseq: int, *, hierarchy: bool = False) -> None:
        self.db.execute("UPDATE mailbox SET head = max(head, ?)", (modseq,))
        if hierarchy:
            self.db.execute("UPDATE mailbox SET hierarchy_head = max(hierarchy_head, ?)", (modseq,))

    def digest_of(self, state: ItemState) -> bytes:
        return item_digest(state, self._pack).to_bytes(16, "big")

    def count(self, folder_id: bytes, sign: int, size: int, digest: bytes) -> None:
        """The folder's sum, from the end of the transaction on."""
        self.count_some(folder_id, sign, sign * size, sign * int.from_bytes(digest, "big"))

    def count_some(self, folder_id: bytes, items: int, size: int, total: int) -> None:
        """The same, of many items at once; `total` is the sum of their digests."""
        sums = self._sums.get(folder_id)
        if sums is None:
            sums = self._sums[folder_id] = [0, 0, 0]
        sums[0] += items
        sums[1] += size
        sums[2] += total

    def count_rows(self, sign: int, rows: Iterable[tuple[bytes, int, bytes]]) -> None:
        """The same, of many items: (folder, size, digest)."""
        by_folder: dict[bytes, list[int]] = {}
        for folder_id, size, digest in rows:
            sums = by_folder.get(folder_id)
            if sums is None:
                sums = by_folder[folder_id] = [0, 0, 0]
            sums[0] += 1
            sums[1] += size
            sums[2] += int.from_bytes(digest, "big")
        for folder_id, (items, size, total) in by_folder.items():
            self.count_some(folder_id, sign * items, sign * size, sign * total)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A transaction whose sums are right at its end."""
        self._sums = {}
        with transaction(self.db):
            yield
            for folder_id, (items, size, total) in self._sums.items():
                found = self.db.execute("SELECT items, bytes, total FROM sums WHERE folder_id = ?", (folder_id,)).get
                old_items, old_size, old_total = found or (0, 0, b"")
                now = old_items + items
                assert now >= 0, "more items left a folder of the mirror than were in it"
                sum_ = (int.from_bytes(old_total, "big") + total) % MODULUS
                self.db.execute(
                    "INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?)",
                    (folder_id, now, old_size + size, sum_.to_bytes(16, "big")),
                )

    # ---- folders

    def folders(self) -> list[FolderRow]:
        return [folder_row(row) for row in self.db.execute(f"SELECT {FOLDER} FROM folders ORDER BY folder_id")]

    def folder(self, folder_id: FolderId) -> FolderRow:
        """One that is there."""
        return folder_row(next(self.db.execute(f"SELECT {FOLDER} FROM folders WHERE folder_id = ?", (folder_id,))))

    def places(self) -> dict[FolderId, FolderPlace]:
        """Where the folders are: what a batch needs of them, for a tenth of what `folders` costs."""
        return {
            row[0]: FolderPlace(row[0], row[1], row[2], bool(row[3]))
            for row in self.db.execute("SELECT folder_id, wire, server_validity, selectable FROM folders")
        }

    def were_there(self) -> dict[bytes, bool]:
        """The folders that the user's mailbox had before the move came, by their names; which of them were subscribed.
        A move that is given up leaves them as they were."""
        return {wire: bool(subscribed) for wire, subscribed in self.db.execute("SELECT * FROM were_there")}

    def put_folder(self, row: FolderRow) -> None:
        """Inside a transaction."""
        state = row.state
        self.db.execute(
            f"INSERT OR REPLACE INTO folders ({FOLDER}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                state.folder_id,
                state.parent_id,
                state.name,
                state.modseq,
                state.uidvalidity,
                state.uidnext,
                state.special_use,
                state.subscribed,
                state.hidden,
                json.dumps(dict(state.attributes)),
                row.wire,
                row.native,
                row.selectable,
                row.server_special,
                row.server_subscribed,
                row.server_validity,
                row.server_uidnext,
                row.server_modseq,
                row.server_items,
                row.mailbox_object,
            ),
        )

    def has_items(self) -> bool:
        return self.db.execute("SELECT 1 FROM items LIMIT 1").get is not None

    def occupied_folders(self) -> frozenset[FolderId]:
        placed = {FolderId(f) for (f,) in self.db.execute("SELECT DISTINCT folder_id FROM items")}
        leaving = {FolderId(f) for (f,) in self.db.execute("SELECT DISTINCT folder_id FROM to_expunge")}
        return frozenset(placed | leaving)

    # ---- reads of the contract

    def check_watermark(self, after: Watermark) -> Standing:
        standing = self.standing()
        own = (after.timeline, after.instance) == (standing.timeline, standing.instance)
        if not own or not standing.horizon <= after.modseq <= standing.head:
            horizon = Watermark(standing.timeline, standing.instance, standing.horizon)
            raise FeedTrimmed(watermark=str(after), horizon=str(horizon))
        return standing

    def feed(self, after: Watermark, *, changes_max: int) -> ChangeBatch:
        """What differs since `after`, as the mirror has it."""
        standing = self.check_watermark(after)
        changes: list[ItemState | Gone | SettingState | DeliveryKeyState] = []
        bound = (after.modseq, changes_max + 1)
        changes += (
            item_state(row)
            for row in self.db.execute(f"SELECT {STATE} FROM items WHERE modseq > ? ORDER BY modseq LIMIT ?", bound)
        )
        changes += (
            Gone(ItemId(item_id), modseq)
            for item_id, modseq in self.db.execute(
                "SELECT item_id, modseq FROM items_gone WHERE modseq > ? ORDER BY modseq LIMIT ?", bound
            )
        )
        changes += (
            SettingState(*row)
            for row in self.db.execute(
                "SELECT name, value, modseq FROM settings WHERE modseq > ? ORDER BY modseq LIMIT ?", bound
            )
        )
        changes += (
            DeliveryKeyState(*row)
            for row in self.db.execute(
                "SELECT key, content_digest, accepted_ms, modseq FROM delivery_keys WHERE modseq > ? "
                "ORDER BY modseq LIMIT ?",
                bound,
            )
        )
        if standing.guard.mode is GuardMode.RETIRED:
            changes += self._stragglers(*bound)
        changes.sort(key=lambda change: change.modseq)
        page = changes[:changes_max]
        page += [change for change in changes[changes_max:] if change.modseq == page[-1].modseq]
        more = len(page) < len(changes)
        hierarchy = standing.hierarchy_head > after.modseq
        return ChangeBatch(
            through=attrs.evolve(after, modseq=page[-1].modseq if more else standing.head),
            more=more,
            hierarchy=tuple(row.state for row in self.folders()) if hierarchy else None,
            items=tuple(change for change in page if isinstance(change, ItemState)),
            items_gone=tuple(change for change in page if isinstance(change, Gone)),
            settings=tuple(change for change in page if isinstance(change, SettingState)),
            delivery_keys=tuple(change for change in page if isinstance(change, DeliveryKeyState)),
        )

    def _stragglers(self, after: int, most: int) -> Iterator[ItemState]:
        """At a retired mailbox strangers are deliveries that went to the old place."""
        for row in self.db.execute(
            "SELECT item_id, folder_id, server_uid, modseq, received_ms, size, x'', flags, keywords, 'IPM.Note', '' "
            "FROM strangers WHERE modseq > ? ORDER BY modseq LIMIT ?",
            (after, most),
        ):
            yield item_state(row)

    def account(self) -> MailboxAccount:
        """From the sums."""
        digests = {
            folder_id: FolderDigest(n, size, int.from_bytes(t, "big")) for folder_id, n, size, t in self._all_sums()
        }
        folders = tuple(row.state for row in self.folders())
        return MailboxAccount(
            head=self.standing().watermark,
            folders=folders,
            settings=tuple(self.db.execute("SELECT name, value FROM settings WHERE value IS NOT NULL ORDER BY name")),
            digests=tuple(sorted({**{f.folder_id: FolderDigest() for f in folders}, **digests}.items())),
        )

    def summary(self) -> MailboxSummary:
        standing = self.standing()
        sums = list(self._all_sums())
        (folders,) = next(self.db.execute("SELECT count(*) FROM folders"))
        return MailboxSummary(
            mailbox_id=standing.mailbox_id,
            instance=standing.instance,
            guard=standing.guard,
            folders=folders,
            items=sum(n for _, n, _, _ in sums),
            bytes=sum(size for _, _, size, _ in sums),
            head=standing.watermark,
        )

    def _all_sums(self) -> Iterator[tuple[FolderId, int, int, bytes]]:
        return self.db.execute("SELECT folder_id, items, bytes, total FROM sums WHERE items > 0")

    def seed_rows(self, after: int, *, items_max: int, bytes_max: int) -> tuple[list[Located], bool]:
        """The items behind `after` that fit, one at least, in the order in which the mirror met them: the one order
        that no change can alter. And whether they are the last."""
        found: list[Located] = []
        bytes_ = 0
        for row in self.db.execute(
            f"SELECT {LOCATED} FROM items WHERE seq > ? AND server_uid IS NOT NULL ORDER BY seq LIMIT ?",
            (after, items_max),
        ):
            one = located(row)
            bytes_ += one.state.size
            if found and bytes_ > bytes_max:
                return found, False
            found.append(one)
        return found, len(found) < items_max

    def find(self, item_ids: Sequence[bytes]) -> dict[ItemId, Located]:
        """Those of the items that are at the server."""
        found: dict[ItemId, Located] = {}
        for some in batched(item_ids):
            marks = ",".join("?" * len(some))
            rows = self.db.execute(
                f"SELECT {LOCATED} FROM items WHERE server_uid IS NOT NULL AND item_id IN ({marks})", tuple(some)
            )
            found |= {one.state.item_id: one for one in map(located, rows)}
        return found

    def listing_extras(self) -> tuple[tuple[SettingState, ...], tuple[DeliveryKeyState, ...]]:
        settings = tuple(SettingState(*row) for row in self.db.execute("SELECT name, value, modseq FROM settings"))
        keys = tuple(
            DeliveryKeyState(*row)
            for row in self.db.execute("SELECT key, content_digest, accepted_ms, modseq FROM delivery_keys")
        )
        return settings, keys

    def note_read(self, read: Sequence[tuple[Located, ItemState]]) -> None:
        """Items whose bytes were read for the first time: as they were found here, and the same with their hash and
        true size. No change for anybody: the item is what it was, only known better."""
        now = {found.seq: (found.state, state) for found, state in read}
        with self.changing():
            known: list[tuple[bytes, int, bytes, int]] = []
            for seq, item_id, modseq, old_hash, old_size, digest in self.db.execute(
                "SELECT seq, item_id, modseq, content_hash, size, digest FROM items WHERE seq IN carray(?)",
                (apsw.carray(array("q", now)),),
            ):
                was, state = now[seq]
                if item_id != was.item_id:
                    continue  # it went, and the last row's number was given to another one
                if modseq < 0 or (modseq, old_hash) != (was.modseq, was.content_hash):  # it may have changed since
                    row = self.db.execute(f"SELECT {STATE} FROM items WHERE seq = ?", (seq,)).get
                    state = item_state(row)._replace(size=state.size, content_hash=state.content_hash)
                total = item_digest(state, self._pack)
                self.count_some(state.folder_id, 0, state.size - old_size, total - int.from_bytes(digest, "big"))
                known.append((state.content_hash, state.size, total.to_bytes(16, "big"), seq))
            insert_rows(
                self.db,
                "WITH given(content_hash, size, digest, seq) AS (",
                known,
                after=") UPDATE items SET content_hash = given.content_hash, size = given.size, "
                "digest = given.digest, normal_hash = NULL FROM given WHERE items.seq = given.seq",
            )

    def tell_again(self, folder_id: FolderId, server_uids: Sequence[int]) -> None:
        """The feed has these items once more, as they are."""
        with self.changing():
            for uid in server_uids:
                self.db.execute(
                    "UPDATE items SET modseq = ? WHERE folder_id = ? AND server_uid = ?",
                    (self.next_modseq(), folder_id, uid),
                )

    # ---- remarks

    def remark(self, text: str, count: int = 1) -> None:
        """Inside a transaction: something the report should tell."""
        self.db.execute(
            "INSERT INTO remarks VALUES (?, ?) ON CONFLICT (text) DO UPDATE SET count = count + excluded.count",
            (text, count),
        )

    def remarks(self) -> tuple[str, ...]:
        """What was remarked; and of how many messages the server does not keep a flag, counted now, for one that is
        stored again is missing again."""
        counts = Counter(dict(self.db.execute("SELECT text, count FROM remarks")))
        for flags, count in self.db.execute(
            "SELECT flags & ~server_flags, count(*) FROM items WHERE flags & ~server_flags AND due = 0 "
            "AND server_uid IS NOT NULL GROUP BY 1"
        ):
            for name, flag in Flag.__members__.items():
                if flag & flags:
                    counts[f"the server did not keep the flag \\{name.capitalize()} of a message"] += count
        return tuple(text if count == 1 else f"{text} ({count:,} times)" for text, count in sorted(counts.items()))


def _connect(path: Path, *, create: bool) -> apsw.Connection:
    connection = open_sqlite(path, synchronous="FULL", create=create)
    bring_up(connection, kind="mirror", application_id=MIRROR_APPLICATION_ID, steps=MIRROR_STEPS)
    connection.wal_autocheckpoint(CHECKPOINT_PAGES)
    connection.pragma("cache_size", -CACHE_KIB)
    return connection


# ---- rows and values


def item_state(row: Sequence[Any]) -> ItemState:
    """From the columns `STATE`."""
    properties = json.loads(row[10]) if row[10] else NO_PROPERTIES
    return tuple.__new__(ItemState, (*row[:8], split(row[8]), row[9], properties))  # half the time of `_make`


def located(row: Sequence[Any]) -> Located:
    """From the columns `LOCATED`."""
    return tuple.__new__(Located, (*row[:3], item_state(row[3:])))


def state_columns(state: ItemState) -> tuple[Any, ...]:
    """The columns `STATE`."""
    properties = json.dumps(dict(state.properties)) if state.properties else ""
    return (*state[:8], joined(state.keywords), state.item_class, properties)


def folder_row(row: Sequence[Any]) -> FolderRow:
    """From the columns `FOLDER`."""
    attributes = json.loads(row[9]) if row[9] != "{}" else NO_PROPERTIES
    return FolderRow(
        state=FolderState(
            row[0],
            row[1],
            row[2],
            row[3],
            row[4],
            row[5],
            row[6],
            bool(row[7]),
            bool(row[8]),
            attributes,
        ),
        wire=row[10],
        native=bool(row[11]),
        selectable=bool(row[12]),
        server_special=row[13],
        server_subscribed=bool(row[14]),
        server_validity=row[15],
        server_uidnext=row[16],
        server_modseq=row[17],
        server_items=row[18],
        mailbox_object=row[19],
    )


@lru_cache(4096)
def split(keywords: str) -> tuple[str, ...]:
    """A mailbox has thousands of messages and a few dozen sets of keywords."""
    return tuple(keywords.split("\n")) if keywords else ()


@lru_cache(4096)
def joined(keywords: tuple[str, ...]) -> str:
    return "\n".join(keywords)


def batched(ids: Sequence[Any], most: int = 500) -> Iterator[Sequence[Any]]:
    """Below SQLite's bound on the variables of one statement."""
    for at in range(0, len(ids), most):
        yield ids[at : at + most]
