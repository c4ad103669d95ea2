"""A mailbox on any IMAP server: a kind of `mirrored` mailbox.

session ──┬── listing, reading   what the server has
          ├── places             its folders
          └── writing            what it is to have
                 └──▶ connection (lent by the session) ─▶ login ─▶ wire
"""
