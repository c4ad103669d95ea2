"""Is a process that died started again, and when?

One that met a bug, or was killed for its memory, shall not leave a night's moves undone; one that dies again and again
shall not do so unseen: then the worker ends, and whoever looks after it (systemd, an administrator) hears of it.
"""

from collections.abc import Sequence

DEATHS_MAX = 5
"""Of a worker's processes together, in `WINDOW_S`."""
WINDOW_S = 600.0
FIRST_S = 1.0
"""Before the first start; twice as long before each further one."""


def restart_after_s(deaths: Sequence[float], *, now: float) -> float | None:
    """Seconds until the process that died last is started again; None: it is not. `deaths`: when each died, the last
    one included, in seconds of the clock of `now`."""
    recent = sum(now - died < WINDOW_S for died in deaths)
    return FIRST_S * 2 ** (recent - 1) if recent <= DEATHS_MAX else None
