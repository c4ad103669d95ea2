"""The command line: one file a verb group, wired in `__main__`.

Every verb opens the root, calls what a script would call, and shows the answer. Nothing heavy is imported before the
verb that needs it runs, so that `--help` answers at once.
"""
