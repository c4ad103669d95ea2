"""The benches run, and say what docs quote: each once, with hardly anything to do. Nothing here asserts a timing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHES
from tests.support.servers import required_root

ROOT = Path(__file__).parent.parent.parent
HARDLY = {
    "bulk_copy": ("--percent", "1", "--runs", "1"),
    "many": ("--mailboxes", "3", "--items", "5"),
    "queue": ("--few", "2", "--many", "4", "--idle-seconds", "2"),
    "memory": ("--small", "50", "--large", "100"),
    "cutover": ("--small", "10", "--middle", "20", "--large", "30", "--moves", "2", "--large-moves", "2"),
    "deliver": ("--seconds", "1", "--runs", "1", "--copied-items", "100"),
    "feed": ("--commits", "5", "--small", "20", "--large", "40"),
    "imap": ("--messages", "60", "--rounds", "1", "--tools", "moverq,raw-1", "--fidelity"),
    "imap.one_folder": ("--small", "20", "--large", "40"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_runs_and_says_its_figures_as_json(name: str, tmp_path: Path) -> None:
    where = ["--dir", str(tmp_path)]
    if name.startswith("imap"):  # its servers write under users of their own, who may not look into a test's folder
        required_root("dovecot")
        where = []
    command = [sys.executable, "-m", f"bench.{name}", *where, *HARDLY[name]]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        assert line["bench"] == name
        assert line["commit"]
        assert all(figure["n"] >= 1 and figure["max"] > 0 for figure in line["figures"].values())
    assert not list(tmp_path.iterdir()), "a bench leaves nothing behind"
