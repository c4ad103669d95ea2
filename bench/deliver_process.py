"""One process of `bench.deliver`: `KIND ROOT AT_ONCE SECONDS`; prints its figures as JSON."""

import gc
import json
import sys
from pathlib import Path

import trio

from bench.deliver import bare, engine
from moverq.cli.__main__ import OBJECTS_BETWEEN_COLLECTIONS


def main(kind: str, root: str, at_once: str, seconds: str) -> None:
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)  # as for every command
    if kind == "engine":
        answer = trio.run(engine, Path(root), int(at_once), int(seconds))
    else:
        answer = {"per_second": bare(Path(root), int(at_once), int(seconds), whole=kind == "whole")}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
