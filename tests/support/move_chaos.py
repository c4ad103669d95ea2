"""Chaos: several orchestrators of one move at once, slow, killed, cut off, with answers that get lost; from a seed.

Each engine takes its steps after random pauses of virtual time, so that their steps interleave in any order; at a
step it may die, or be refused by a mail system that is away for the moment. A user works meanwhile. After every step
the world must be safe, and once the faults stop the move must end.
"""

import random
from collections.abc import Awaitable, Callable

import attrs
import trio

from moverq.errors import EndpointUnavailable, leaves
from moverq.model.ids import RequestId
from tests.support.move_script import Script
from tests.support.move_world import World


class Died(BaseException):
    """The process is gone."""


@attrs.define(eq=False, kw_only=True)
class Chaos:
    """`run` until the faults stop; what remains is for one healthy engine."""

    world: World
    script: Script
    request_id: RequestId
    rng: random.Random
    engines: int = 3
    lives: int = 4
    """How often each engine is started again after it has died or stopped."""
    die: float = 0.01
    refuse: float = 0.03
    pause: float = 0.5
    checks: int = 0

    async def run(self) -> None:
        # In the nursery: the engines and the user; each ends by itself.
        async with trio.open_nursery() as nursery:
            for number in range(self.engines):
                nursery.start_soon(self._engine, random.Random(self.rng.random() + number))
            nursery.start_soon(self._user, random.Random(self.rng.random()))

    async def _engine(self, rng: random.Random) -> None:
        for _ in range(self.lives):
            await trio.sleep(rng.random() * 20)
            engine = self.world.engine(step=self._step(rng), seed=rng.randrange(1 << 30))
            try:
                await (await engine.job(self.request_id)).run()
            except BaseException as error:
                if not any(isinstance(leaf, Died) for leaf in leaves(error)):
                    raise
            finally:
                await engine.close()

    def _step(self, rng: random.Random) -> Callable[[str], Awaitable[None]]:
        async def step(name: str) -> None:
            if rng.random() < self.pause:
                await trio.sleep(rng.expovariate(1.0))
            self.checks += 1
            await self.world.check_safe()
            if rng.random() < self.die:
                raise Died(name)
            before = name.endswith(":before")
            answer_lost = name.endswith(":after") and name.startswith(("directory", "DB"))
            if rng.random() < self.refuse and ((before and not name.startswith(("ledger", "map"))) or answer_lost):
                raise EndpointUnavailable(endpoint=name, why="cut off")

        return step

    async def _user(self, rng: random.Random) -> None:
        for _ in range(3000):
            if not self.script.left:
                return
            await trio.sleep(rng.expovariate(1 / 2.0))
            await self.script.act()
