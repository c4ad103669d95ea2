"""Tools that know no mail: blocking work, bounds in bytes, waiting again."""
