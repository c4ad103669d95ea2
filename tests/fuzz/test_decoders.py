"""Every decoder on mutated inputs: taken, or refused with the error it documents; in time, and within its memory.

A few thousand inputs each, the same every time; `make fuzz` runs without end (`docs/how-to/fuzz-a-decoder.md`).
"""

import importlib.util
import subprocess
import sys
import time
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz.decoder import REFUSED, TAKEN, Decoder
from tests.fuzz.every import DECODERS
from tests.fuzz.mutations import PUMPED_BYTES, mutated, pumped

FOUND = Path(__file__).parent / "found"
REPOSITORY = Path(__file__).resolve().parents[2]
INPUTS = 1500
PUMPED = 40
SECONDS_MAX = 4.0
"""For one input of 128 KiB: linear ones take a tenth of a second, quadratic ones minutes."""
MEMORY_MAX = 64 * PUMPED_BYTES
EVERY = pytest.mark.parametrize("decoder", DECODERS.values(), ids=str)


@EVERY
def test_a_decoder_takes_what_was_encoded(decoder: Decoder) -> None:
    outcomes = [decoder.judge(seed) for seed in decoder.seeds]
    assert TAKEN in outcomes


@EVERY
def test_a_mutated_input_is_taken_or_refused(decoder: Decoder) -> None:
    outcomes = {decoder.judge(data) for data in islice(mutated(decoder.seeds, seed=1), INPUTS)}
    assert outcomes == {TAKEN, REFUSED}


@EVERY
def test_no_input_takes_long_or_much_memory(decoder: Decoder) -> None:
    for data in islice(pumped(decoder.seeds, seed=2), PUMPED):
        began = time.process_time()
        decoder.judge(data)
        took = time.process_time() - began
        assert took < SECONDS_MAX, (took, data[:100])
    tracemalloc.start()
    try:
        for data in islice(pumped(decoder.seeds, seed=3), 5):
            decoder.judge(data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "path", sorted(path for path in FOUND.rglob("*") if path.is_file()), ids=lambda path: path.parent.name
)
def test_what_was_found_once_is_not_found_again(path: Path) -> None:
    began = time.process_time()
    assert DECODERS[path.parent.name].judge(path.read_bytes()) in (TAKEN, REFUSED)
    assert time.process_time() - began < SECONDS_MAX


@pytest.mark.slow
def test_the_guided_fuzzer_runs(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (pip install --group fuzz)")
    command = [sys.executable, "-m", "tests.fuzz", "frame", "--inputs", "3000", "--corpus", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "frame: 3000 inputs, nothing found" in done.stdout
    assert any((tmp_path / "frame" / "corpus").iterdir())
