"""mbox files as a mailbox: a kind of `mirrored` mailbox, whose server is a directory of files.

    session ──┬── index        what messages a file holds, and where ──▶ splitting, message
              ├── writing ─────▶ appending   at the end
              │                  rewriting   in the middle, by a journal
              ├── places       the folders: make, rename, delete, subscribe ──▶ layout
              └── locks        a lock file and fcntl

A message has no name in an mbox. What stays of it is its bytes, and its separator: their hash is its *base*, and the
mirror's server UID of a message is a number that it gives to that (`files.numbers`). The UID that clients see is in
X-UID, where a mail server keeps one.
"""
