"""A Maildir as a mailbox: a kind of `mirrored` mailbox, whose server is a folder of files.

    session ──┬── folder       one folder: scan, read, deliver, rename, remove; blocking
              ├── places       the folders: make, rename, delete, subscribe ──▶ layout
              └── side_files   dovecot-uidlist, dovecot-keywords
                     names     what a file's name says

A file of a Maildir has a name that stays (`names.base`), and one that changes with its flags. So the mirror's server
UID of a message is a number that it gives to the base name (`files.numbers`); the UID that clients see is in
`dovecot-uidlist`, where Dovecot keeps one.
"""
