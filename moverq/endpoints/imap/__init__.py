"""A mailbox on any IMAP server, as source and as target of a move.

An IMAP server names its own items, keeps no digests and has no guard. So the mover keeps a **mirror** of the mailbox,
a SQLite file beside the ledger: what the server has, under ids that stay, with change numbers, sums and tombstones.
The contract's verbs read and write the mirror; the rest of this folder makes mirror and server follow each other.

    the engine ──▶ mailbox ──┬──▶ mirror (ids, change numbers, guard, intents: durable)
                             ├── refresh   what the server has   ─▶ mirror
                             └── writing   what the mirror wants ─▶ server
                                    └──▶ pool ─▶ login ─▶ connection ─▶ wire
"""
