"""Running moves in front of somebody: `--wait` of the move verbs, and `moverq worker`.

Signals are taken as what they are asked for: the first one lets every move leave at a safe point, the second one cuts
short. Either way the ledger has everything, and the next worker goes on.
"""

import ctypes
import gc
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from moverq.cli.common import INTERRUPTED, Exit, say
from moverq.cli.progress import Display
from moverq.errors import MoveError
from moverq.model.ids import RequestId
from moverq.plan.sharing import WHOLE, Share

if TYPE_CHECKING:
    from moverq.root import Root

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
LOOK_S = 0.2
"""Between two looks at what the worker does."""


async def wait_shown(root: "Root", requests: Sequence[RequestId], *, quiet: bool = False) -> None:
    """All of them have come to rest, with this process moving what no other worker moves.

    Raises:
        Exit: interrupted by a signal.
    """
    gc.freeze()  # modules stay: they are not looked through again and again for what nobody needs
    interrupted = False
    # In the nursery: the wait, and the watch for signals, which the end of the wait ends.
    with Display(quiet=quiet) as display:
        async with trio.open_nursery() as nursery:

            async def watch_signals() -> None:
                nonlocal interrupted
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for _ in signals:
                        interrupted = True
                        nursery.cancel_scope.cancel()

            nursery.start_soon(watch_signals)
            await root.wait_all(requests, on_look=display)
            nursery.cancel_scope.cancel()
    if interrupted:
        names = " ".join(request[:8] for request in requests)
        say(
            f"moverq: interrupted. The request stays and nothing is lost: `moverq worker` goes on with it, "
            f"`moverq move explain {names}` says where it stands."
        )
        raise Exit(INTERRUPTED)


async def run_worker(root: "Root", *, drain: bool, quiet: bool, share: Share = WHOLE, line: int | None = None) -> None:
    """Run until stopped, or drained. `line`: to a parent that counts the signals, and says what there is to say of
    them (`processes`).

    Raises:
        Exit: interrupted.
    """
    gc.freeze()  # as above
    got: list[int] = []
    news: set[RequestId] = set()
    service = root.service(on_progress=lambda progress: news.add(progress.request_id), share=share)
    with Display(quiet=quiet, live=line is None) as display:
        # In the nursery: the worker, what shows it, the upkeep, the watches for signals and for what the parent says;
        # the worker's end ends all.
        async with trio.open_nursery() as nursery:

            async def watch_signals() -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for number in signals:
                        service.stop()
                        if line is not None:
                            continue
                        got.append(number)
                        if len(got) > 1:
                            nursery.cancel_scope.cancel()
                        else:
                            say("moverq: stopping; moves leave at their next safe point")

            async def watch_line(line: int) -> None:
                told = 0
                while told < 2:
                    await trio.lowlevel.wait_readable(line)
                    said = os.read(line, 2)
                    service.stop()
                    if not said:
                        return  # there is no parent any more: at a safe point, but for certain
                    told += len(said)
                nursery.cancel_scope.cancel()

            async def show() -> None:
                while True:
                    at_work = set(service.progress)
                    shown = sorted(news | at_work)
                    news.clear()
                    news.update(at_work)  # once more when they have ended
                    with suppress(MoveError):  # the worker itself says what keeps it from its ledger
                        display(await root.look(shown, service))
                    await trio.sleep(LOOK_S)

            nursery.start_soon(watch_signals)
            if line is not None:
                nursery.start_soon(watch_line, line)
            nursery.start_soon(show)
            nursery.start_soon(root.upkeep, share)
            await service.run(drain=drain)
            nursery.cancel_scope.cancel()
        with suppress(MoveError):
            display(await root.look(sorted(news)))
    if got:
        say("moverq: stopped. Nothing is lost: `moverq worker` goes on.")
        if signal.SIGINT in got:
            raise Exit(INTERRUPTED)


def share_one_heap() -> None:
    """glibc gives each thread a heap of its own, and keeps there what another thread has freed: a batch is read in one
    thread and written in another, so a fifth of a worker's memory lay idle. Elsewhere this changes nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
