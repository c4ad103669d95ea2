"""LMTP (RFC 2033): an MTA's deliveries into mailboxes, each recipient answered for itself, after the commit."""
