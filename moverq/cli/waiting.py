"""Running moves in front of somebody: `--wait` of the move verbs, and `moverq worker`.

Signals are taken as what they are asked for: the first one lets every move leave at a safe point, the second one cuts
short. Either way the ledger has everything, and the next worker goes on.
"""

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from moverq.cli.common import FAILED, INTERRUPTED, NOT_FOUND, Exit, say
from moverq.cli.progress import Display
from moverq.errors import NotFound

if TYPE_CHECKING:
    from moverq.model.ids import RequestId
    from moverq.model.statistics import MoveStatistics
    from moverq.root import Root
    from moverq.service import Service


async def wait_shown(root: "Root", requests: "Sequence[RequestId]", *, quiet: bool = False) -> None:
    """All of them have come to rest, with this process moving what no other worker moves.

    Raises:
        Exit: interrupted by a signal.
    """
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


async def outcome(root: "Root", requests: "Sequence[RequestId]", *, ready_is_enough: bool) -> "list[MoveStatistics]":
    """Where they came to rest; those that did not complete are explained on stderr, and `Exit` is for them.

    `ready_is_enough`: suspended when ready is what was asked for.
    """
    good = {"Completed", "CompletedWithWarning", *(("AutoSuspended",) if ready_is_enough else ())}
    found: list[MoveStatistics] = []
    for request in requests:
        try:
            statistics = await root.move_show(request)
        except NotFound:
            say(f"moverq: request {request} has been removed")
            raise Exit(NOT_FOUND) from None
        found.append(statistics)
        if statistics.status not in good:
            explanation = await root.explain(request)
            say(f"moverq: the move of {statistics.address} is {statistics.status}: {explanation.why}.")
            say(f"Next: {explanation.what_next}.")
    return found


def check_good(found: "Sequence[MoveStatistics]", *, ready_is_enough: bool) -> None:
    """Raises `Exit` where a move did not come to its end."""
    good = {"Completed", "CompletedWithWarning", *(("AutoSuspended",) if ready_is_enough else ())}
    if any(one.status not in good for one in found):
        raise Exit(FAILED)


async def run_worker(root: "Root", service: "Service", *, drain: bool, quiet: bool) -> None:
    """Run until stopped, or drained.

    Raises:
        Exit: interrupted.
    """
    got: list[int] = []
    with Display(quiet=quiet) as display:
        # In the nursery: the worker, what shows it, and the watch for signals; the worker's end ends all.
        async with trio.open_nursery() as nursery:

            async def watch_signals() -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for number in signals:
                        got.append(number)
                        if len(got) > 1:
                            nursery.cancel_scope.cancel()
                        else:
                            service.stop()
                            say("moverq: stopping; moves leave at their next safe point")

            nursery.start_soon(watch_signals)
            nursery.start_soon(root.watch, service, display)
            await service.run(drain=drain)
            nursery.cancel_scope.cancel()
    if got:
        say("moverq: stopped. Nothing is lost: `moverq worker` goes on.")
        if signal.SIGINT in got:
            raise Exit(INTERRUPTED)
