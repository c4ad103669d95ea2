"""What mailboxes that are files have in common, whatever the format: Maildirs, mbox.

location        where they are, in the words of Dovecot's `mail_location`
acting          what a mover that is root does among a user's files, it does with that user's rights
owner           what is made among a user's files is the user's
dot_lock        a file beside a file that says who may change it; files changed whole, under it
subscriptions   the list that Dovecot keeps
numbers         the number that the mirror gives to what stays of a message
ticks           how long a modification time may be that of two changes
errors          what cures an `OSError`
session         one mailbox: its mirror, and the work on its files
system          the mailboxes of one location
"""
