"""Fuzz decoders, guided by coverage: `python -m tests.fuzz [DECODER …] [--inputs N] [--corpus FOLDER]`.

Each decoder in turn (all of them, if none is named), each in a process of its own, because libFuzzer ends the one it
runs in. With `--inputs` each gets so many; without, it goes on until it is stopped. What was reached is kept in
the corpus folder, so the next run goes on from there. An input that a judge objects to is written beside it; put it
into `tests/fuzz/found/DECODER/` and the tests look at it for ever.
"""

import argparse
import subprocess
import sys
from itertools import cycle
from pathlib import Path

TURN_INPUTS = 100_000
"""Where several decoders are fuzzed without end, each has so many before it is the next one's turn."""
SECONDS_MAX = 10
"""One input's time."""
MEGABYTES_MAX = 2048
INPUT_BYTES_MAX = 16 << 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz decoders, guided by coverage.")
    parser.add_argument("decoders", nargs="*", metavar="DECODER")
    parser.add_argument("--inputs", type=int, default=-1, help="so many for each; without: until stopped")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("the fuzzer needs atheris: pip install --group fuzz", file=sys.stderr)
        return 2
    if asked.in_this_process:
        fuzz(asked.decoders[0], asked)
    from tests.fuzz.every import DECODERS

    if unknown := set(asked.decoders) - set(DECODERS):
        parser.error(f"there is no decoder {', '.join(sorted(unknown))}: there are {', '.join(DECODERS)}")
    names = asked.decoders or list(DECODERS)
    forever = asked.inputs < 0 and len(names) > 1
    for number, name in enumerate(cycle(names) if forever else names):
        inputs = TURN_INPUTS if forever else asked.inputs
        command = [sys.executable, "-m", "tests.fuzz", name, "--in-this-process", "--corpus", str(asked.corpus)]
        seed = asked.seed and asked.seed + number  # 0: another one each time
        code = subprocess.run([*command, "--inputs", str(inputs), "--seed", str(seed)]).returncode
        if code:
            print(f"{name}: an input that its judge objects to is in {asked.corpus / name}", file=sys.stderr)
            return code
        print(f"{name}: {inputs} inputs, nothing found", flush=True)
    return 0


def fuzz(name: str, asked: argparse.Namespace) -> None:
    """Does not return."""
    import atheris

    with atheris.instrument_imports(include=["moverq", "store", "json", "email"]):
        from tests.fuzz.every import DECODERS
    decoder = DECODERS[name]
    corpus = asked.corpus / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(decoder.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-runs={asked.inputs}", f"-seed={asked.seed}", f"-max_len={INPUT_BYTES_MAX}", f"-timeout={SECONDS_MAX}",
        f"-rss_limit_mb={MEGABYTES_MAX}", f"-artifact_prefix={asked.corpus / name}/", "-print_final_stats=1",
        "-verbosity=0",
    ]  # fmt: skip

    def judge(data: bytes) -> None:
        decoder.judge(data)

    atheris.Setup([sys.argv[0], *options, str(corpus)], judge)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
