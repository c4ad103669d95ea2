"""The two sides of a move: one contract (`base`), one file per kind of mailbox."""
