"""Mail in files: Maildir, mbox and .eml, read and written byte for byte.

    read_mail(path) ── finds the format by itself ── MailItem | NotMail, one after the other
    write_maildir, write_mbox, write_eml(path, items) ── a new folder that `read_mail` gives back

Knows files and mail formats, and no moves. Mail is never parsed and put together again: more than half of real
messages do not survive that. Headers are looked at, within a bound, for dates and flags alone.

What always holds: a message's bytes are those in the file, with two exceptions. A file without a single CRLF (an
mbox, a Maildir message, an .eml) has the line ends of its host, and each bare LF becomes CRLF, as mail has it; a
leading `From ` line belongs to the mbox format and not to the message. Files that this module wrote say themselves
that their bytes are exact, and are taken as they are. Whatever is not mail comes as `NotMail`, to be reported; one
unreadable file never ends the reading.

Everything here is blocking and pulled item by item, so it is bounded by the largest message: call it in `Offload`.
"""

from moverq.mailfiles.eml import write_eml
from moverq.mailfiles.item import MESSAGE_BYTES_MAX, MailItem, NotMail
from moverq.mailfiles.maildir import write_maildir
from moverq.mailfiles.mbox import write_mbox
from moverq.mailfiles.read import read_mail

__all__ = ["MESSAGE_BYTES_MAX", "MailItem", "NotMail", "read_mail", "write_eml", "write_maildir", "write_mbox"]
