"""Benchmarks: each measures its own limit beside the engine, in the same run, and prints a table and a JSON line."""
