"""The ledger's tables. `bring_up` counts the steps already taken; a release only ever appends to them."""

APPLICATION_ID = b"mvql"
MAP_APPLICATION_ID = b"mvqm"

LEDGER_STEPS = (
    """
    CREATE TABLE requests (
        request_id      TEXT PRIMARY KEY,
        idempotency_key TEXT NOT NULL UNIQUE,
        mailbox_id      BLOB NOT NULL,
        address         TEXT NOT NULL,
        source_database TEXT NOT NULL,
        target_database TEXT NOT NULL,
        batch_name      TEXT,
        queued_ms       INTEGER NOT NULL,
        request         BLOB NOT NULL,     -- MoveRequest, msgpack; the columns above are for listing
        token           INTEGER NOT NULL DEFAULT 0,
        status          TEXT NOT NULL,
        detail          TEXT NOT NULL,
        stage           TEXT NOT NULL,
        since_ms        INTEGER NOT NULL,
        updated_ms      INTEGER NOT NULL,
        percent         INTEGER NOT NULL DEFAULT 0,
        message         TEXT NOT NULL DEFAULT '',
        next_try_ms     INTEGER,
        counters        BLOB NOT NULL,
        progress        BLOB,
        wish_suspend    INTEGER NOT NULL DEFAULT 0,
        wish_retry      INTEGER NOT NULL DEFAULT 0,
        wish_complete   INTEGER NOT NULL DEFAULT 0,
        wish_finish     INTEGER NOT NULL DEFAULT 0,
        wish_remove     INTEGER NOT NULL DEFAULT 0,
        superseded_by   TEXT
    ) STRICT;
    CREATE INDEX requests_mailbox ON requests (mailbox_id);
    CREATE INDEX requests_status ON requests (status, queued_ms);
    CREATE TABLE facts (
        request_id TEXT NOT NULL REFERENCES requests ON DELETE CASCADE,
        kind       TEXT NOT NULL,
        token      INTEGER NOT NULL,
        at_ms      INTEGER NOT NULL,
        payload    BLOB NOT NULL,
        PRIMARY KEY (request_id, kind)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE report (
        entry_id   INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL REFERENCES requests ON DELETE CASCADE,
        at_ms      INTEGER NOT NULL,
        kind       TEXT NOT NULL,
        text       TEXT NOT NULL,
        data       BLOB NOT NULL
    ) STRICT;
    CREATE INDEX report_request ON report (request_id, entry_id);
    """,
    # What a worker chooses by has a number of its last change, so that each asks for what changed since its last look.
    # The largest one may be of a request that is gone: no number is given twice.
    """
    ALTER TABLE requests ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
    UPDATE requests SET changed = rowid;
    CREATE INDEX requests_changed ON requests (changed);
    CREATE TABLE removals (
        changed    INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL
    ) STRICT;
    CREATE VIEW next_change (number) AS SELECT 1 + max(
        coalesce((SELECT max(changed) FROM requests), 0), coalesce((SELECT max(changed) FROM removals), 0));
    CREATE TRIGGER requests_added AFTER INSERT ON requests
    BEGIN
        UPDATE requests SET changed = (SELECT number FROM next_change) WHERE request_id = NEW.request_id;
    END;
    CREATE TRIGGER requests_changed AFTER UPDATE OF
        request, status, detail, stage, next_try_ms,
        wish_suspend, wish_retry, wish_complete, wish_finish, wish_remove, superseded_by ON requests
    WHEN (OLD.request, OLD.status, OLD.detail, OLD.stage, OLD.next_try_ms,
          OLD.wish_suspend, OLD.wish_retry, OLD.wish_complete, OLD.wish_finish, OLD.wish_remove, OLD.superseded_by)
        IS NOT (NEW.request, NEW.status, NEW.detail, NEW.stage, NEW.next_try_ms,
          NEW.wish_suspend, NEW.wish_retry, NEW.wish_complete, NEW.wish_finish, NEW.wish_remove, NEW.superseded_by)
    BEGIN
        UPDATE requests SET changed = (SELECT number FROM next_change) WHERE request_id = NEW.request_id;
    END;
    CREATE TRIGGER requests_removed BEFORE DELETE ON requests
    BEGIN
        INSERT INTO removals (changed, request_id) VALUES ((SELECT number FROM next_change), OLD.request_id);
    END;
    """,
)

MAP_STEPS = (
    """
    CREATE TABLE items (
        item_id    BLOB PRIMARY KEY,
        folder_id  BLOB NOT NULL,
        target_key BLOB,                   -- where the target names items itself; NULL: by item_id
        modseq     INTEGER NOT NULL,
        dead       INTEGER NOT NULL,
        digest     BLOB NOT NULL,          -- equality digest, 16 bytes
        size       INTEGER NOT NULL,
        bad        TEXT,                   -- CorruptItem, LargeItem, MissingItem; NULL: at the target
        seen       INTEGER NOT NULL        -- the last listing (generation) that had it
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX items_target_key ON items (target_key) WHERE target_key IS NOT NULL;
    CREATE INDEX items_bad ON items (item_id) WHERE bad IS NOT NULL AND dead = 0;
    CREATE TABLE sums (
        folder_id BLOB PRIMARY KEY,
        items     INTEGER NOT NULL,
        bytes     INTEGER NOT NULL,
        total     BLOB NOT NULL,
        bad_items INTEGER NOT NULL,
        bad_bytes INTEGER NOT NULL,
        bad_total BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE settings (
        name   TEXT PRIMARY KEY,
        value  TEXT,
        modseq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE owner (
        one       INTEGER PRIMARY KEY CHECK (one = 1),
        token     INTEGER NOT NULL,
        hierarchy BLOB                     -- the last folder tree carried, msgpack
    ) STRICT;
    INSERT INTO owner (one, token) VALUES (1, 0);
    """,
    """
    CREATE TABLE kept (                    -- what the target had and the source never got, in a rollback
        item_id   BLOB PRIMARY KEY,
        folder_id BLOB NOT NULL,
        modseq    INTEGER NOT NULL,
        digest    BLOB NOT NULL,
        size      INTEGER NOT NULL,
        bad       TEXT NOT NULL            -- why the move that is taken back left it behind
    ) STRICT, WITHOUT ROWID;
    """,
)
