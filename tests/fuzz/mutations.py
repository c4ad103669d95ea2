"""A small mutator: enough to reach the branches of a decoder from good inputs, the same from the same seed.

The one in the tests; `make fuzz` has atheris, which is guided by coverage. What it has over that is `pumped`: a piece
of the input said ten thousand times, which is what finds an expression that takes quadratic time.
"""

import random
from collections.abc import Callable, Iterator, Sequence

PUMPED_BYTES = 128 << 10
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, ord("\n"), ord("\r"), ord(" "), ord('"'), ord("{"), 0xC0, 0xDC, 0xDF)
NUMBERS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def flipped(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def replaced(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(INTERESTING) if rng.random() < 0.5 else rng.randrange(256)


def numbered(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((2, 4, 8))
    if len(data) >= size:
        at = rng.randrange(len(data) - size + 1)
        number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
        data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))


def inserted(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randrange(1, 5))


def deleted(data: bytearray, rng: random.Random) -> None:
    start, end = _slice(data, rng)
    del data[start:end]


def repeated(data: bytearray, rng: random.Random) -> None:
    start, end = _slice(data, rng)
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[start:end]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _slice(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 8, 64, 512)))


MUTATIONS: Sequence[Callable[[bytearray, random.Random], None]] = (
    flipped, flipped, replaced, replaced, numbered, inserted, deleted, repeated, cut,
)  # fmt: skip


def mutated(seeds: Sequence[bytes], *, seed: int) -> Iterator[bytes]:
    """Inputs without end: one of the seeds, or a beginning of one and an end of another, changed a few times."""
    rng = random.Random(seed)
    while True:
        data = bytearray(rng.choice(seeds))
        if rng.random() < 0.1:
            other = rng.choice(seeds)
            data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            rng.choice(MUTATIONS)(data, rng)
        yield bytes(data)


def pumped(seeds: Sequence[bytes], *, seed: int, size: int = PUMPED_BYTES) -> Iterator[bytes]:
    """Inputs of about `size` in which one short piece stands so often as that takes."""
    rng = random.Random(seed)
    while True:
        data = rng.choice(seeds)
        start = rng.randrange(len(data) + 1)
        piece = data[start : start + rng.choice((1, 1, 2, 4, 16))]
        if rng.random() < 0.3:
            piece = bytes(rng.choice(INTERESTING) for _ in range(rng.choice((1, 2))))
        yield data[:start] + piece * (size // max(len(piece), 1)) + data[start + rng.randrange(3) :]
