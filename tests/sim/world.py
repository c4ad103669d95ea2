"""A run's world: what lasts (files, directory, what people were told), its time, and what goes wrong in it now.

    scenario ──▶ World ─┬─ machine     files, lost and torn by power loss
                        ├─ directory   the register; a service of its own, that may be away
                        ├─ history     what each client asked and was told
                        ├─ observer    sees every durable effect at the moment it happens, and asks the checkers
                        └─ windows     the faults that are open now

The first violation ends the run: whatever follows from it would hide it.
"""

import hashlib
import random
from collections import Counter, deque
from pathlib import Path

import attrs
import trio

from moverq.directory.memory import MemoryDirectory
from tests.sim.history import History
from tests.sim.machine import Machine
from tests.sim.scenario import Act, Fault, Scenario
from tests.support.move_world import SMALL

EPOCH_MS = 1_700_000_000_000

LIMITS = attrs.evolve(
    SMALL,
    poll_wishes_s=5.0,
    reverse_interval_s=2.0,
    progress_interval_s=5.0,
    stop_deadline_s=3.0,
    max_retries=6,
    max_quiet_moves_per_mrs=1,
    quiet_turn_s=2.0,
)


@attrs.frozen
class Violation:
    """A rule that did not hold, and the smallest witness of it, in words."""

    rule: str
    witness: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.witness}"


@attrs.define(eq=False)
class World:
    """See the module."""

    scenario: Scenario
    machine: Machine
    directory: MemoryDirectory
    history: History
    rng: random.Random
    """The faults' own."""
    scripts: dict[str, deque[Act]] = attrs.Factory(dict)
    windows: list[tuple[Fault, float]] = attrs.Factory(list)
    sometimes: Counter[str] = attrs.Factory(Counter)
    violations: list[Violation] = attrs.Factory(list)
    jump_ms: int = 0
    clock_fell_back: bool = False
    is_calm: bool = False
    """Liveness: faults have stopped."""
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    lines: list[str] = attrs.Factory(list)
    _digest: "hashlib._Hash" = attrs.Factory(lambda: hashlib.blake2b(digest_size=16))

    @property
    def root(self) -> Path:
        return self.machine.root

    def now_ms(self) -> int:
        """The wall clock, which may jump; the virtual clock of the tasks never does."""
        return EPOCH_MS + int(trio.current_time() * 1000) + self.jump_ms

    def say(self, *words: object) -> None:
        """A line of the trace: the same seed writes the same lines."""
        line = f"{trio.current_time():.6f} {' '.join(map(str, words))}"
        self._digest.update(line.encode() + b"\n")
        self.lines.append(line)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def reach(self, what: str) -> None:
        """Something that a blind run set would never see."""
        self.sometimes[what] += 1

    def violate(self, rule: str, witness: str) -> None:
        if not self.violations:
            self.say("VIOLATED", rule, witness)
            self.violations.append(Violation(rule, witness))
            self.scope.cancel()

    def hit(self, kind: str, where: str) -> bool:
        """Does a fault of this kind strike here, now?"""
        if not self.windows:
            return False
        now = trio.current_time()
        return any(
            fault.kind == kind and fault.where == where and now < until and self.rng.random() < fault.chance
            for fault, until in self.windows
        )

    def hit_anywhere(self, kind: str) -> bool:
        """The same, for what is only one."""
        if not self.windows:
            return False
        now = trio.current_time()
        return any(
            fault.kind == kind and now < until and self.rng.random() < fault.chance for fault, until in self.windows
        )
