"""A mailbox in a mail system that names its own items, as source and as target of a move.

An IMAP server or a Maildir keeps no digests, no change numbers and no guard. So the mover keeps a **mirror** of the
mailbox, a SQLite file beside the ledger: what is there, under ids that stay, with change numbers, sums and tombstones.
The contract's verbs read and write the mirror; mirror and mail system follow each other.

    the engine ──▶ mailbox ──┬──▶ mirror (ids, change numbers, guard, intents: durable)
                             ├── refresh      what is there          ─▶ mirror     list_folders, look_into, read
                             ├── folder_steps what folders are wanted ─▶ there     places
                             └── intents      what items are wanted   ─▶ there     append_all, settle, work_off
                                                                                └─ `session.MailSession`: one per kind

All this is one for every kind. A kind is a `MailSession` and a `MailSystem` (`endpoint`): `imap`, `maildir`, `mbox`. In
names and comments here "the server" is the mail system, whichever it is.
"""
