"""The mover's own memory: requests, facts, report, operators' wishes, and each move's map of items."""
