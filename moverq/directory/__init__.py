"""The directory service: who lives where, and nothing else decides that."""
