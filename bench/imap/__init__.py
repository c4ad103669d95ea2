"""How fast is a mailbox moved between two real IMAP servers, beside the tools that administrators use today?"""
