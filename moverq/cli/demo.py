"""`moverq demo`: a mailbox in use, moved and taken back, in front of you."""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from moverq.cli.common import FAILED, Exit, say, size


async def demo(
    *,
    mail: Annotated[
        Path | None, Parameter(help="Your own mail: a Maildir, an mbox or a folder of .eml. It is only read.")
    ] = None,
    items: Annotated[int, Parameter(help="How many messages to make, without --mail.")] = 4000,
    root: Annotated[Path | None, Parameter(help="Where to make the root; it is kept. Else a temporary folder.")] = None,
    keep: Annotated[bool, Parameter(help="Keep the temporary folder.")] = False,
    rollback: Annotated[bool, Parameter(negative="--no-rollback", help="Take the move back in the end.")] = True,
) -> None:
    """Watch a mailbox being moved while it is in use, and taken back."""
    import trio

    from moverq import demo as script
    from moverq.cli.progress import Display
    from moverq.mailbox_files import Imported

    begun = time.monotonic()
    rng = random.Random()
    place = root if root is not None else Path(tempfile.mkdtemp(prefix="moverq-demo-")) / "root"
    keep = keep or root is not None or not rollback
    good = True
    tty = sys.stderr.isatty()
    try:
        await script.init_root(place, "Demo")
        async with script.open_root(place) as opened:

            def counted(done: Imported) -> None:
                if tty:
                    print(f"\r{done.items:,} messages", end="", file=sys.stderr, flush=True)

            done = await script.prepare(opened, mail=mail, items=items, on_batch=counted)
            if tty:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            for one in done.refused[:5]:
                say(f"not imported: {one.path}: {one.why}")
            print("A mailbox in use is moved to another database, and taken back.")
            print()
            print(f"  {script.ADDRESS}: {done.items:,} messages, {size(done.bytes)}, in DB1 on server EX1")
            print(
                f"  meanwhile: {script.DELIVERIES_PER_S:.0f} deliveries/s through a durable queue, and "
                f"{script.CHANGES_PER_S:.0f} changes/s by a client"
            )
            told = await script.read_told(opened)
            print()
            print("DB1 -> DB2, online:", flush=True)
            with Display(quiet=not tty) as display:
                there = await script.move_in_use(
                    opened,
                    told,
                    lambda: opened.move(script.ADDRESS, to="DB2"),
                    home="DB2",
                    epoch=2,
                    on_look=display,
                    rng=rng,
                )
            print("\n".join(script.narrated(there)))
            good = good and all(one.ok for one in there.checks)
            request = there.report.statistics.request_id
            print()
            print("Taken back by one command:")
            print(f"  moverq move rollback {request[:8]} --wait --root {place}", flush=True)
            if rollback:
                print("  (the demo does so now, with the mailbox in use)")
                print()
                print("DB2 -> DB1, with all that came since:", flush=True)
                with Display(quiet=not tty) as display:
                    back = await script.move_in_use(
                        opened, told, lambda: opened.rollback(request), home="DB1", epoch=3, on_look=display, rng=rng
                    )
                print("\n".join(script.narrated(back)))
                good = good and all(one.ok for one in back.checks)
    finally:
        if not keep:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: shutil.rmtree(place.parent, ignore_errors=True))
    print()
    if keep:
        print(f"The root is kept: {place}")
    print(f"{'All checks passed' if good else 'A CHECK FAILED'}, in {time.monotonic() - begun:.1f} s.")
    if not good:
        raise Exit(FAILED)
