"""`python -m moverq`: the command line."""

from moverq.cli.__main__ import main

main()
