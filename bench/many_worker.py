"""The worker of `bench.many`, so many processes: `python -m bench.many_worker ROOT PROCESSES AT_ONCE`.

It moves what is queued as `moverq worker --drain` does, and tells on one line the seconds that took and the processor
seconds of all processes, after what they import and before what they end with.
"""

import json
import resource
import sys
import time
from pathlib import Path

import trio

import moverq.endpoints.store
import moverq.service  # noqa: F401  (imported before the clock runs)
from bench.organisation import set_collector
from moverq.cli.processes import run_processes
from moverq.cli.waiting import share_one_heap
from moverq.limits import Limits
from moverq.plan.sharing import Share
from moverq.root import open_root


def limits(at_once: int) -> Limits:
    """So many moves at once, between one pair of databases."""
    return Limits(
        max_active_moves_per_source_mdb=at_once,
        max_active_moves_per_target_mdb=at_once,
        max_active_moves_per_source_server=at_once,
        max_active_moves_per_target_server=at_once,
    )


def main(root: str, processes: int, at_once: int) -> None:
    async def work(share: Share) -> None:
        async with open_root(Path(root), limits=limits(at_once)) as opened:
            await opened.service(share=share).run(drain=True)

    def child(share: Share, _: int) -> int:
        trio.run(work, share)
        return 0

    set_collector()
    share_one_heap()  # as `moverq worker` does
    start = time.perf_counter()
    code = run_processes(child, of=processes, drain=True)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}))
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
