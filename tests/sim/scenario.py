"""What happens in one run, as data: who does what when, and what goes wrong when. Pure: a seed gives a scenario.

Actions (`Act`) and faults (`Fault`) know nothing of each other, and each may be left out without changing the others:
that is what makes a failing scenario easy to shrink. An action names what it is about by small numbers, which its actor
takes modulo what there is when the time comes.
"""

import random
from collections.abc import Sequence

import attrs

DATABASES = ("DB1", "DB2", "DB3")
ADDRESSES = ("ada@example.org", "bob@example.org")
"""Two mailboxes that are used and moved; a third, in the template, is nobody's and must stay as it is."""

SPLITS_SHARE = 0.25

CLIENT_VERBS = (
    *("append",) * 6, *("flag",) * 5, *("move",) * 4, *("delete",) * 2, *("purge",) * 3, *("copy",) * 2,
    *("read",) * 6, *("folder",) * 2, *("rename",) * 2, "swap", "cycle", "invert", "nest", "drop", "setting",
)  # fmt: skip
ADMIN_VERBS = (
    "suspend", "resume", "complete", "rollback", "rollback", "remove", "retarget", "set", "complete",
)  # fmt: skip
UPKEEP_VERBS = ("maintain", "checkpoint", "maintain")


@attrs.frozen
class Act:
    """One thing that somebody does. `numbers` choose what it is done to."""

    at: float
    actor: str
    verb: str
    numbers: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.at:6.2f} {self.actor} {self.verb} {self.numbers}"


@attrs.frozen
class Fault:
    """What goes wrong, from `at` on for `for_s`, with `chance` at each occasion. `where`: a process, a database."""

    at: float
    kind: str
    where: str
    for_s: float = 0.0
    chance: float = 1.0
    number: int = 0

    def __str__(self) -> str:
        return f"{self.at:6.2f} {self.kind} {self.where} for {self.for_s:.2f} s, {self.chance:.2f}, {self.number}"


@attrs.frozen(kw_only=True)
class Scenario:
    """A run, but for the scheduler's choices (which follow from the seed too)."""

    seed: int
    workers: int
    fronts: int
    file_locks: bool
    """False: the workers' file locks do nothing, as on a file system without them. They are for efficiency only."""
    splits: bool
    """Blocking calls give way in the middle: those of other processes overlap them."""
    tombstones: int
    """How many a mailbox keeps: few, and feeds are trimmed."""
    lock_budget_ms: int
    soak_s: float
    quota_bytes: int | None
    """Of the first mailbox; None: none."""
    acts: tuple[Act, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.workers} workers, {self.fronts} fronts, file locks {self.file_locks}, "
            f"splits {self.splits}"
        ]
        lines += [f"  {step}" for step in sorted((*self.acts, *self.faults), key=lambda step: step.at)]
        return "\n".join(lines)


def plan_scenario(seed: int, *, kinds: Sequence[str] | None = None) -> Scenario:
    """The scenario of this seed. `kinds`: the faults to choose from, where a test looks for something."""
    rng = random.Random(f"{seed} scenario")
    length_s = rng.choice((6.0, 15.0, 40.0))
    acts = [*_moves(rng, length_s), *_clients(rng, length_s), *_deliveries(rng, length_s), *_upkeep(rng, length_s)]
    workers = rng.choice((1, 1, 2, 2, 3))
    return Scenario(
        seed=seed,
        workers=workers,
        fronts=1,
        file_locks=rng.random() < 0.4,
        splits=random.Random(f"{seed} splits").random() < SPLITS_SHARE,
        tombstones=rng.choice((1, 3, 200_000)),
        lock_budget_ms=rng.choice((200, 1000, 60_000)),
        soak_s=rng.choice((0.5, 5.0, 30.0)),
        quota_bytes=rng.choice((None, None, None, 4000)),
        acts=tuple(sorted(acts, key=lambda act: act.at)),
        faults=tuple(sorted(_faults(rng, length_s, workers, kinds), key=lambda fault: fault.at)),
    )


def _numbers(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(1000), rng.randrange(1000), rng.randrange(1000)


def _moves(rng: random.Random, length_s: float) -> list[Act]:
    acts = [Act(rng.random() * 0.3, "admin", "new", (0, *_numbers(rng)[1:]))]
    if rng.random() < 0.4:
        acts.append(Act(rng.random() * length_s / 2, "admin", "new", (1, *_numbers(rng)[1:])))
    for _ in range(rng.choice((0, 0, 1, 2, 4))):
        verb = rng.choice(ADMIN_VERBS)
        late = length_s if verb in ("rollback", "complete") else length_s / 3
        acts.append(Act(rng.random() * late, "admin", verb, _numbers(rng)))
    return acts


def _clients(rng: random.Random, length_s: float) -> list[Act]:
    return [
        Act(rng.random() * length_s * rng.random(), f"client{client}", rng.choice(CLIENT_VERBS), _numbers(rng))
        for client in range(rng.choice((1, 2, 3)))
        for _ in range(rng.randrange(4, 16))
    ]


def _deliveries(rng: random.Random, length_s: float) -> list[Act]:
    return [
        Act(rng.random() * length_s * rng.random(), f"agent{number % 2}", verb, _numbers(rng))
        for number in range(rng.randrange(2, 9))
        for verb in [rng.choice(("deliver", "deliver", "submit", "again"))]
    ]


def _upkeep(rng: random.Random, length_s: float) -> list[Act]:
    return [
        Act(rng.random() * length_s, "upkeep", rng.choice(UPKEEP_VERBS), _numbers(rng))
        for _ in range(rng.choice((0, 1, 3)))
    ]


FAULTS = (
    "kill", "kill", "kill in call", "kill in call", "stop", "pause", "pause", "power", "power", "disk full",
    "disk error", "slow disk", "directory away", "directory answers lost", "endpoint refuses", "endpoint twice",
    "endpoint answers lost", "ledger busy", "clock", "catalogue", "map loses a row",
    "asleep at the register",
)  # fmt: skip


def _faults(rng: random.Random, length_s: float, workers: int, kinds: Sequence[str] | None) -> list[Fault]:
    chosen = kinds if kinds is not None else rng.sample(FAULTS, rng.choice((0, 1, 2, 4, 6)))
    faults = []
    for kind in chosen:
        for _ in range(rng.choice((1, 1, 2, 4))):
            # Most of what matters happens early: a move of ten items takes a second or two.
            at = rng.random() * rng.choice((1.0, 3.0, length_s))
            where = rng.choice([f"worker{n}" for n in range(workers)] * 3 + ["front0"])
            for_s = rng.expovariate(1 / 2.0)
            if kind.startswith(("disk", "slow", "endpoint")):
                where = rng.choice(DATABASES)
            elif kind == "directory answers lost":
                # At the register they matter most, and a move changes it only once.
                where = rng.choice(("relocate", "relocate", "any"))
                for_s *= 1 if where == "any" else 8
            faults.append(
                Fault(
                    at=at,
                    kind=kind,
                    where=where,
                    for_s=for_s,
                    chance=rng.choice((0.05, 0.3, 1.0)),
                    number=rng.randrange(1, 1000),
                )
            )
    return faults
