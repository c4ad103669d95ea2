"""The mirror's tables. `bring_up` counts the steps already taken; a release only ever appends to them."""

MIRROR_APPLICATION_ID = b"mvqi"

MIRROR_STEPS = (
    """
    CREATE TABLE mailbox (
        one              INTEGER PRIMARY KEY CHECK (one = 1),
        mailbox_id       BLOB NOT NULL,
        instance         BLOB NOT NULL,
        timeline         BLOB NOT NULL,
        user             TEXT NOT NULL,
        mode             TEXT NOT NULL,
        token            INTEGER NOT NULL,
        home_database    TEXT,
        home_instance    BLOB,
        head             INTEGER NOT NULL DEFAULT 0,
        horizon          INTEGER NOT NULL DEFAULT 0,
        hierarchy_head   INTEGER NOT NULL DEFAULT 0,
        removed_until_ms INTEGER
    ) STRICT;
    CREATE TABLE folders (
        folder_id         BLOB PRIMARY KEY,
        parent_id         BLOB,
        name              TEXT NOT NULL,
        modseq            INTEGER NOT NULL,
        uidvalidity       INTEGER NOT NULL,
        uidnext           INTEGER NOT NULL,
        special_use       TEXT NOT NULL,
        subscribed        INTEGER NOT NULL,
        hidden            INTEGER NOT NULL,
        attributes        TEXT NOT NULL,
        native            INTEGER NOT NULL,     -- UIDs and UIDVALIDITY are the server's own
        wire              BLOB NOT NULL UNIQUE, -- the name at the server, as it is sent
        selectable        INTEGER NOT NULL,
        server_special    TEXT NOT NULL,        -- what the server last said
        server_subscribed INTEGER NOT NULL,
        server_validity   INTEGER NOT NULL,     -- 0: never looked into
        server_uidnext    INTEGER NOT NULL,
        server_modseq     INTEGER NOT NULL,     -- everything up to here is in the mirror; 0: compare in full
        server_items      INTEGER NOT NULL,
        mailbox_object    BLOB NOT NULL         -- OBJECTID's MAILBOXID; empty: the server has none
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE items (
        seq             INTEGER PRIMARY KEY,
        item_id         BLOB NOT NULL UNIQUE,
        folder_id       BLOB NOT NULL,
        uid             INTEGER NOT NULL,
        modseq          INTEGER NOT NULL,
        received_ms     INTEGER NOT NULL,
        size            INTEGER NOT NULL,
        content_hash    BLOB NOT NULL,          -- empty: never read
        flags           INTEGER NOT NULL,
        keywords        TEXT NOT NULL,
        item_class      TEXT NOT NULL,
        properties      TEXT NOT NULL,
        digest          BLOB NOT NULL,
        server_uid      INTEGER,                -- NULL: on its way there, by `intent`
        server_flags    INTEGER NOT NULL,       -- what the server last said
        server_keywords TEXT NOT NULL,
        normal_hash     BLOB,                   -- of the normal form, where that is not the content
        verified        INTEGER NOT NULL,       -- its size and date have been seen at the server
        due             INTEGER NOT NULL,       -- its flags are still to be stored there
        intent          INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX items_uid ON items (folder_id, uid);
    CREATE UNIQUE INDEX items_server_uid ON items (folder_id, server_uid) WHERE server_uid IS NOT NULL;
    CREATE INDEX items_modseq ON items (modseq);
    CREATE INDEX items_due ON items (seq) WHERE due = 1;
    CREATE INDEX items_on_the_way ON items (seq) WHERE server_uid IS NULL;
    CREATE TABLE items_gone (item_id BLOB PRIMARY KEY, modseq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX items_gone_modseq ON items_gone (modseq);
    CREATE TABLE settings (
        name TEXT PRIMARY KEY, value TEXT, modseq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE delivery_keys (
        key BLOB NOT NULL, content_digest BLOB NOT NULL, accepted_ms INTEGER NOT NULL, modseq INTEGER NOT NULL,
        PRIMARY KEY (key, content_digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sums (
        folder_id BLOB PRIMARY KEY, items INTEGER NOT NULL, bytes INTEGER NOT NULL, total BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE to_expunge (
        folder_id BLOB NOT NULL, server_validity INTEGER NOT NULL, server_uid INTEGER NOT NULL,
        PRIMARY KEY (folder_id, server_validity, server_uid)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE to_move (
        item_id BLOB PRIMARY KEY, from_folder BLOB NOT NULL, server_validity INTEGER NOT NULL,
        server_uid INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE strangers (                    -- at a server where only the mover may write, and not from him
        folder_id BLOB NOT NULL, server_uid INTEGER NOT NULL, item_id BLOB NOT NULL, modseq INTEGER NOT NULL,
        received_ms INTEGER NOT NULL, size INTEGER NOT NULL, flags INTEGER NOT NULL, keywords TEXT NOT NULL,
        PRIMARY KEY (folder_id, server_uid)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE doubtful (                     -- intents found not to be there: they may still come, late
        number INTEGER PRIMARY KEY, folder_id BLOB NOT NULL, received_s INTEGER NOT NULL, hash BLOB NOT NULL
    ) STRICT;
    CREATE TABLE remarks (
        text TEXT PRIMARY KEY, count INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE files (                        -- of a Maildir: the server UID of a message is the number of its file
        number    INTEGER PRIMARY KEY AUTOINCREMENT,
        folder_id BLOB NOT NULL,
        base      BLOB NOT NULL,                -- the file's name without what changes: flags, sizes
        UNIQUE (folder_id, base)
    ) STRICT;
    """,
    """
    CREATE TABLE were_there (                   -- folders of the user's own, from before a move came into his mailbox
        wire BLOB PRIMARY KEY, subscribed INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE emptied (                      -- nearly all mail was gone in every look since
        one INTEGER PRIMARY KEY CHECK (one = 1), since_ms INTEGER NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE to_expunge ADD COLUMN received_s INTEGER NOT NULL DEFAULT 0; -- what it is, should UIDs change
    ALTER TABLE to_expunge ADD COLUMN hash BLOB NOT NULL DEFAULT x'';        -- empty: nobody knows
    """,
)
