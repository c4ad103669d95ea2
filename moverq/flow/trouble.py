"""Trouble: what keeps a task from its work for now. Told once when it begins, once when it is over; never in silence.

trouble = Trouble("moverq.worker", "looking for work", rng)
while True:
    try:
        …
        trouble.is_over()
    except* MoveError as group:
        wait_s = trouble.met(group)
    …
"""

import random

import attrs

from moverq.errors import leaves
from moverq.flow.backoff import backoff_s
from moverq.flow.log import log

FIRST_S = 0.5
MOST_S = 30.0
"""Between two tries: whoever cured it need not wait longer."""


@attrs.define(eq=False)
class Trouble:
    """One task's. `met` says how long to wait until the next try."""

    log: str
    """The name of the log that is told."""
    doing: str
    """What is being tried, as a sentence begins with it."""
    rng: random.Random
    _tries: int = 0
    _why: str = ""

    @property
    def lasts(self) -> bool:
        """It was met, and is not over."""
        return self._tries > 0

    def met(self, error: BaseException) -> float:
        """The work could not be done. Seconds until it should be tried again."""
        why = "; ".join(dict.fromkeys(str(leaf) or repr(leaf) for leaf in leaves(error)))
        if why != self._why:
            log(self.log).warning(f"{self.doing} fails; it is tried again until it works", why=why)
            self._why = why
        self._tries += 1
        return backoff_s(self._tries - 1, first_s=FIRST_S, most_s=MOST_S, rng=self.rng)

    def is_over(self) -> None:
        """The work was done."""
        if self._tries:
            log(self.log).info(f"{self.doing} works again", tries=self._tries)
            self._tries, self._why = 0, ""
