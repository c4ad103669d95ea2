"""Delivery keys: known again wherever they lie, by every process, whatever was rolled back, cut or purged meanwhile."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from store.catalogue.keys import Key, RecentKeys
from store.catalogue.schema import SCHEMA_VERSION, make_catalogue, open_catalogue
from store.catalogue.view import View
from store.check import check_database
from store.disk import Disk
from store.ids import InstanceId, LogHead, LogPosition, MailboxId, Signature
from store.layout import Layout
from store.log.checkpoint import make_checkpoint
from store.rebuild import rebuild_database
from store.records import DeliveryKeyRow, DeliveryKeysPut, FeedCut, MailboxMade, MailboxPurged, Mode, Record
from tests.support.store_world import ALICE, BOB, check_sound, make_mailbox, opened

RECENT = 5


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.catalogue.keys.RECENT_KEYS_MAX", RECENT)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.sqlite"
    make_catalogue(path, signature=Signature(b"s" * 16), head=LogHead(LogPosition(1, 512), bytes(16)))
    return path


# ---- against a model

Accepted = dict[InstanceId, dict[tuple[bytes, bytes], int]]
"""What a mailbox accepted, and when."""


class _Process:
    """One that commits: a connection, and what it remembers."""

    def __init__(self, path: Path) -> None:
        self.db = open_catalogue(path)
        self.recent = RecentKeys()


class _World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.made = 0
        self.now_ms = 1

    def _key(self) -> tuple[bytes, bytes]:
        """Few, so that they come again; the same key with other content, and other keys with the same."""
        return b"key %d" % self.random.randrange(12), b"digest %d" % self.random.randrange(2)

    def transaction(self, process: _Process, model: Accepted) -> Accepted:
        """A transaction of a few steps, committed or not; what is accepted then."""
        after = {instance: dict(keys) for instance, keys in model.items()}
        view = View(process.db, process.recent)
        process.db.execute("BEGIN IMMEDIATE")
        for _ in range(self.random.randrange(1, 5)):
            self._step(view, after)
            if self.random.random() < 0.6:
                self._check(view, after)
        view.flush()
        committed = self.random.random() < 0.7
        process.db.execute("COMMIT" if committed else "ROLLBACK")
        return after if committed else model

    def _step(self, view: View, accepted: Accepted) -> None:
        self.now_ms += 1
        kind = self.random.random()
        if not accepted or kind < 0.1:
            self.made += 1
            instance = InstanceId(b"mailbox %08d" % self.made)
            view.apply([MailboxMade(instance, MailboxId(instance), Mode.OPEN, 0, 0)])
            accepted[instance] = {}
            return
        instance = self.random.choice(list(accepted))
        keys = accepted[instance]
        records: list[Record]
        if kind < 0.17:
            records = [MailboxPurged(instance)]
            del accepted[instance]
        elif kind < 0.25:
            before = self.now_ms - self.random.randrange(12)
            records = [FeedCut(instance, 0, before)]
            accepted[instance] = {key: at for key, at in keys.items() if at >= before}
        else:
            new = {self._key() for _ in range(self.random.randrange(1, 4))} - keys.keys()
            keys.update(dict.fromkeys(new, self.now_ms))
            rows = [DeliveryKeyRow(*key, self.now_ms, self.now_ms) for key in sorted(new)]
            records = [DeliveryKeysPut(instance, rows)]
        view.apply(records)

    def _check(self, view: View, accepted: Accepted) -> None:
        asked: set[Key] = set()
        expected: set[Key] = set()
        for instance, keys in accepted.items():
            no = view.mailbox(instance).no
            some = {self._key() for _ in range(6)}
            asked |= {(no, *key) for key in some}
            expected |= {(no, *key) for key in some & keys.keys()}
        assert view.accepted(asked) == expected


@pytest.fixture
def processes(catalogue: Path) -> Iterator[list[_Process]]:
    made = [_Process(catalogue) for _ in range(3)]
    yield made
    for process in made:
        process.db.close()


@pytest.mark.parametrize("seed", range(12))
def test_every_process_knows_what_was_accepted(processes: list[_Process], seed: int) -> None:
    """Mailbox numbers come again after a purge; a key that was cut is new again."""
    world, accepted = _World(seed), Accepted()
    for _ in range(150):
        accepted = world.transaction(world.random.choice(processes), accepted)
    db = processes[0].db
    assert db.execute("SELECT count(*) FROM delivery_key").get == sum(map(len, accepted.values()))
    given, old = db.execute("SELECT keys_given, keys_old FROM meta").get
    assert given > 10 * RECENT
    assert given - old <= RECENT
    assert db.execute("SELECT count(*) FROM delivery_key WHERE recent != (no > ?)", (old,)).get == 0
    assert db.execute("PRAGMA integrity_check").get == "ok"


# ---- what it is for


async def test_a_group_touches_few_pages_however_many_keys_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page a key would be more than sixty."""
    monkeypatch.setattr("store.catalogue.keys.RECENT_KEYS_MAX", 1024)
    async with opened(tmp_path / "DB") as database:
        await make_mailbox(database)
        view_db, recent = database._committer._db, RecentKeys()
        pages: list[int] = []
        for number in range(80):
            rows = [
                DeliveryKeyRow(random.Random(f"{number} {at}").randbytes(32), bytes(32), 0, number) for at in range(64)
            ]
            before = _logged(view_db)
            view_db.execute("BEGIN IMMEDIATE")
            view = View(view_db, recent)
            assert view.accepted({(1, row.key, row.content_digest) for row in rows}) == set()
            view.apply([DeliveryKeysPut(ALICE, rows)])
            view.flush()
            view_db.execute("COMMIT")
            pages.append(_logged(view_db) - before)
        assert sorted(pages)[len(pages) // 2] < 12
        assert sum(pages) / len(pages) < 16, "with those that go to the index"


def _logged(db: apsw.Connection) -> int:
    return db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0]


# ---- a catalogue of version 1

VERSION_1 = """
CREATE TABLE old_meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    signature BLOB NOT NULL, generation INTEGER NOT NULL, offset INTEGER NOT NULL, chain BLOB NOT NULL
);
INSERT INTO old_meta SELECT one, signature, generation, offset, chain FROM meta;
DROP TABLE meta;
ALTER TABLE old_meta RENAME TO meta;
CREATE TABLE old_key (
    mailbox INTEGER NOT NULL, key BLOB NOT NULL, content_digest BLOB NOT NULL, accepted_ms INTEGER NOT NULL,
    modseq INTEGER NOT NULL, PRIMARY KEY (mailbox, key, content_digest)
) WITHOUT ROWID;
INSERT INTO old_key SELECT mailbox, key, content_digest, accepted_ms, modseq FROM delivery_key;
DROP TABLE delivery_key;
ALTER TABLE old_key RENAME TO delivery_key;
CREATE INDEX delivery_key_modseq ON delivery_key (mailbox, modseq);
PRAGMA user_version = 1;
"""


def make_version_1(path: Path) -> None:
    """The catalogue as it was before delivery keys had numbers."""
    with closing(open_catalogue(path)) as db:
        db.execute(VERSION_1)


@pytest.mark.parametrize("deliveries", [0, 3, RECENT * 3 + 1])
async def test_a_catalogue_of_version_1_is_brought_up(tmp_path: Path, deliveries: int) -> None:
    path = tmp_path / "DB"
    async with opened(path) as database:
        for instance in (ALICE, BOB):
            mailbox = await make_mailbox(database, instance)
            for number in range(deliveries):
                await mailbox.deliver(b"%d" % number, key=b"k%d" % number)
        keys = {instance: await database.delivery_keys(instance) for instance in (ALICE, BOB)}
    make_version_1(Layout(path).catalogue)
    assert check_database(path).ok, "reading it needs nothing else"
    async with opened(path) as database:
        for instance in (ALICE, BOB):
            assert await database.delivery_keys(instance) == keys[instance]
            mailbox = database.mailbox(instance)
            for number in range(deliveries):
                assert (await mailbox.deliver(b"%d" % number, key=b"k%d" % number)).duplicate
            assert not (await mailbox.deliver(b"other", key=b"k0")).duplicate
    check_sound(path)
    with closing(open_catalogue(Layout(path).catalogue)) as db:
        assert db.execute("PRAGMA user_version").get == SCHEMA_VERSION
        assert db.execute("PRAGMA integrity_check").get == "ok"


async def test_a_rebuild_begins_from_a_checkpoint_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "DB"
    async with opened(path) as database:
        mailbox = await make_mailbox(database)
        await mailbox.deliver(b"one", key=b"1")
    make_version_1(Layout(path).catalogue)
    with closing(open_catalogue(Layout(path).catalogue)) as db:
        sealed = make_checkpoint(Disk(), Layout(path), db).path
    async with opened(path) as database:
        await database.mailbox(ALICE).deliver(b"two", key=b"2")
    assert check_database(path).ok
    with closing(open_catalogue(sealed)) as copy:
        assert copy.execute("PRAGMA user_version").get == 1, "a sealed copy stays what it is"
    report = rebuild_database(path)
    assert report.source != "content segments alone"
    async with opened(path) as database:
        for content, key in ((b"one", b"1"), (b"two", b"2")):
            assert (await database.mailbox(ALICE).deliver(content, key=key)).duplicate
