"""Where everything is: an SQLite index, derived from the log and never ahead of it."""
