"""`moverq lmtp`: takes deliveries from an MTA.

    virtual_transport = lmtp:unix:/run/moverq/lmtp          (Postfix, main.cf)
    virtual_transport = lmtp:inet:127.0.0.1:2424

The first SIGTERM or SIGINT lets deliveries that are under way be answered; the second cuts them short, and the MTA
sends them again.
"""

import signal
import sys
from typing import Annotated

from cyclopts import Parameter

from moverq.cli.common import INTERRUPTED, ROOT, Exit, RootOption, answer, say, to_mode, to_seconds


async def lmtp(
    *,
    listen: Annotated[
        str,
        Parameter(
            help="Where: a loopback address with its port, 127.0.0.1:2424 if not given, or unix:/run/moverq/lmtp."
        ),
    ] = "127.0.0.1:2424",
    socket_mode: Annotated[
        int, Parameter(converter=to_mode, metavar="MODE", help="Who may connect to a unix socket; 660 if not given.")
    ] = 0o660,
    lock_wait: Annotated[
        float | None,
        Parameter(
            converter=to_seconds,
            metavar="DURATION",
            help="How long a delivery waits for a lock to end before 451: 0s; 2s if not given.",
        ),
    ] = None,
    size_max: Annotated[int | None, Parameter(help="The largest message, in bytes; 64 MiB if not given.")] = None,
    recipient_delimiter: Annotated[
        str, Parameter(help="As Postfix's: with + a message to ada+lists goes to ada, unless somebody is ada+lists.")
    ] = "",
    root: RootOption = ROOT,
) -> None:
    """Take deliveries from an MTA by LMTP, until it is stopped.

    A recipient is answered with 250 after the message is on the disk, and with 451 while its mailbox is locked.
    """
    import attrs
    import trio

    from moverq.cli.stderr import unwaited_stderr
    from moverq.errors import RequestRefused
    from moverq.limits import Limits
    from moverq.root import open_root

    limits = Limits()
    most = limits.lmtp_message_bytes_max if size_max is None else size_max
    if most < 1:
        raise RequestRefused(why=f"--size-max {most} would let no message in")
    limits = attrs.evolve(
        limits,
        lmtp_lock_wait_s=limits.lmtp_lock_wait_s if lock_wait is None else lock_wait,
        lmtp_message_bytes_max=most,
        lmtp_bytes_max=max(limits.lmtp_bytes_max, 2 * most),
    )
    got: list[int] = []
    with unwaited_stderr():  # a delivery waits for nobody who reads the log
        # In the nursery: the listener, the databases' upkeep, and the watch for signals, the second of which ends all.
        async with open_root(root, limits=limits) as opened, trio.open_nursery() as nursery:
            stopping = trio.Event()

            async def watch_signals(*, task_status: trio.TaskStatus[None]) -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    task_status.started()  # before anybody is told that we listen
                    async for number in signals:
                        got.append(number)
                        stopping.set()
                        if len(got) > 1:
                            nursery.cancel_scope.cancel()

            await nursery.start(watch_signals)
            nursery.start_soon(opened.upkeep)
            async with opened.lmtp(
                listen, socket_mode=socket_mode, recipient_delimiter=recipient_delimiter
            ) as listener:
                answer(None, f"LMTP at {listener.address}", json=False)
                sys.stdout.flush()  # whoever started it waits for this line
                await stopping.wait()
                say("moverq: stopping; deliveries under way are answered first")
            nursery.cancel_scope.cancel()
        say("moverq: stopped. What was answered with 250 is on the disk; the MTA sends the rest again.")
    if signal.SIGINT in got:
        raise Exit(INTERRUPTED)
