"""The transaction log: the truth, in numbered generations; and checkpoints, which spare reading all of it."""
