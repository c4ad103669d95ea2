"""The delivery key: by what a delivery is known again, wherever the mailbox lives by then."""

import hashlib


def delivery_key(sender: str, recipient: str, content: bytes) -> bytes:
    """SHA-256 over sender, recipient and all bytes, each with its length before it, 32 bytes.

    All bytes: with the Received line of the MTA, so that two deliveries of one text are two. Not the Message-ID: lists
    and Bcc share it. The lengths keep ("ab", "c") and ("a", "bc") apart.
    """
    digest = hashlib.sha256()
    for part in (sender.encode(errors="surrogateescape"), recipient.encode(errors="surrogateescape"), content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
