"""What the benches share: limits of the machine, figures with their spread, the table and the JSON line.

A figure is only worth something beside a limit measured in the same run on the same disk: machines differ, and shared
ones drift. A result is written to `bench/results/` where docs quote it (`--save`).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@attrs.frozen
class Figure:
    """One measured thing: its samples, and what they are in."""

    name: str
    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def quantile(self, share: float) -> float:
        """The smallest sample that at least `share` of all samples do not exceed."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def machine() -> dict[str, Any]:
    """Where and on what this ran."""
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def tell(bench: str, figures: Sequence[Figure], *, extra: dict[str, Any], save: bool) -> None:
    """The table for people, one JSON line for machines; `save` keeps the line."""
    table = Table("figure", "median", "p99", "min to max", "n", title=bench)
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.median:,.3g} {figure.unit}",
            f"{figure.quantile(0.99):,.3g}",
            f"{min(figure.samples):,.3g} to {max(figure.samples):,.3g}",
            str(len(figure.samples)),
        )
    Console(width=110).print(table)
    line = json.dumps(
        {
            "bench": bench,
            "figures": {
                f.name: {
                    "unit": f.unit,
                    "median": round(f.median, 4),
                    "p99": round(f.quantile(0.99), 4),
                    "min": round(min(f.samples), 4),
                    "max": round(max(f.samples), 4),
                    "n": len(f.samples),
                }
                for f in figures
            },
            **extra,
            **machine(),
        }
    )
    print(line)
    if save:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{bench}.jsonl").open("a") as results:
            results.write(line + "\n")


def arguments(description: str | None, **numbers: int) -> argparse.Namespace:
    """`--save`, and one option for each number with its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="keep the JSON line in bench/results")
    parser.add_argument("--dir", type=Path, default=None, help="where to work (default: a temporary folder)")
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser.parse_args()


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="moverq-bench-", dir=folder) as path:
        yield Path(path)


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copy_limit(source: Path, target: Path) -> float:
    """Seconds that `cp -r` and a sync of what it wrote take."""

    def copy() -> None:
        subprocess.run(["cp", "-r", str(source), str(target)], check=True)
        for path in target.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    return timed(copy)


def sync_limit_ms(folder: Path, writes: int) -> float:
    """Milliseconds for so many 4 KiB writes in a row, each synced: what that many durable steps cost at the least."""
    path = folder / "sync-limit"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, bytes(4096 * writes), 0)
        os.fsync(descriptor)

        def write() -> None:
            for number in range(writes):
                os.pwrite(descriptor, os.urandom(4096), 4096 * number)
                os.fdatasync(descriptor)

        return timed(write) * 1000
    finally:
        os.close(descriptor)
        path.unlink()
