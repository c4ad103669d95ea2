"""How fast is a mailbox moved between two real IMAP servers, beside the tools that administrators use today?

Two Dovecots on loopback, mdbox or Maildir, with `mail_fsync` as a site has it (optimized). A *row* is a format, a size
and a link: `plain`, `tls`, or a proxy in between that holds everything back (`rtt0` by nothing, `rtt10` by 10 ms for a
round trip; the ratio of the two is what the delay costs). In each round of a row every tool takes its turn, with a
clone of the source of its own and into a fresh user of the target (never deleting a tree just before a run: ext4 pays
for that later):

    copy             the initial copy, the tool's whole process
    same             once more, with nothing changed
    changed          once more, after 50 new messages, 200 flag changes and 30 deletions
    kept             with --fidelity: what the target has of the source after each of these, and after a folder was
                     renamed, message by message
    lock             moverq's cutover: how long the mailbox was locked

Figures: seconds, µs of the client's CPU a message, its peak memory; and those of moverq less its start-up (an
interpreter, the modules, a root opened and an answer), as the tools in C have none. `raw-1` and `raw-4` are what the
servers do by themselves with one and four connections to the target. A ratio is the median of the rounds' own, and
every second round goes backwards: a machine's pace may change by half from one minute to the next.

Estimated before measuring: the target's MULTIAPPEND is the bound (5,500 messages a second on mdbox with one
connection and 9,000 with four, 1,750 and 3,150 on Maildir); ours adds about 100 µs of CPU a message on one of two
cores, beside it.

A row takes (2,000 messages) about a minute and a half a round with all tools, (20,000) about eight; with `--continue`
rows are left out that `bench/results/imap.jsonl` has of this commit.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from operator import truediv
from statistics import median

import attrs
import trio

from bench.common import RESULTS, Figure, machine, tell
from bench.imap import fidelity, mailbox
from bench.imap.site import LINKS, linked, servers
from bench.imap.tools import TOOLS, Moverq, NotHere, Raw, Site, Used, make

FORMATS = ("mdbox", "maildir")


@attrs.frozen
class Row:
    """What a line of results is of."""

    format: str
    messages: int
    link: str

    @property
    def folders(self) -> int:
        return 3 if self.messages < 500 else 10 if self.messages <= 5000 else 40

    def to_json(self) -> dict[str, str | int]:
        return attrs.asdict(self)


def main() -> None:
    asked = _arguments()
    rows = [
        Row(format_, messages, link)
        for format_ in _words(asked.formats, FORMATS)
        for messages in map(int, asked.messages.split(","))
        for link in _words(asked.links, LINKS)
    ]
    tools = _words(asked.tools, TOOLS)
    done = _done() if getattr(asked, "continue") else []
    for row in rows:
        if row.to_json() in done:
            print(f"{row}: there is a result of this commit", file=sys.stderr)
            continue
        with servers(row.format) as (work, source, target):
            bytes_ = trio.run(mailbox.fill, source, row.messages, row.folders)
            print(f"{row}: {bytes_ / 1e6:.0f} MB in {row.folders} folders", file=sys.stderr)
            with linked(row.link, source, target, work, tools) as sites:
                rounds = _Rounds(row, sites, has_fidelity=asked.fidelity)
                for number in range(asked.rounds):
                    for name in tools if number % 2 == 0 else reversed(tools):
                        rounds.take(name, number)
        extra = {**row.to_json(), "MB": round(bytes_ / 1e6), "ratios": rounds.ratios(), "kept": rounds.kept}
        tell("imap", rounds.figures(), extra=extra, save=asked.save)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="mdbox", help=f"of {', '.join(FORMATS)}; mdbox if not given")
    parser.add_argument("--messages", default="2000", help="sizes, 2000 if not given: 2000,20000")
    parser.add_argument("--links", default="plain", help=f"of {', '.join(LINKS)}; plain if not given")
    parser.add_argument("--tools", default=",".join(TOOLS), help="all if not given: " + ",".join(TOOLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fidelity", action="store_true", help="compare every message, in the first round")
    parser.add_argument("--save", action="store_true", help="keep the lines in bench/results")
    parser.add_argument("--continue", action="store_true", help="leave out what is there of this commit")
    return parser.parse_args()


def _words(given: str, known: "tuple[str, ...] | dict[str, int | None]") -> list[str]:
    words = given.split(",")
    unknown = [word for word in words if word not in known]
    if unknown:
        sys.exit(f"there is no {unknown[0]}; there are {', '.join(known)}")
    return words


def _done() -> list[dict[str, str | int]]:
    path, commit = RESULTS / "imap.jsonl", machine()["commit"]
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        {name: line[name] for name in ("format", "messages", "link")}
        for line in map(json.loads, lines)
        if line["commit"] == commit
    ]


@attrs.define
class _Rounds:
    """What was measured of one row."""

    row: Row
    sites: dict[bool, Site]
    has_fidelity: bool
    samples: dict[tuple[str, str], list[float]] = attrs.Factory(lambda: defaultdict(list))
    """By figure's name and unit."""
    kept: dict[str, dict[str, dict[str, int]]] = attrs.Factory(dict)
    """By tool and step: what differs between target and source, by kind; nothing, if nothing does."""

    def take(self, name: str, number: int) -> None:
        """One tool's turn."""
        site = self.sites[name.startswith("dsync")]
        user = f"{name}{number}"
        mailbox.clone(site.source, user)
        os.sync()
        tool = make(name, site, user)
        try:
            tool.prepare()
        except NotHere as why:
            print(f"{name}: {why}", file=sys.stderr)
            return
        start_up = tool.start_up() if isinstance(tool, Moverq) else None
        is_compared = self.has_fidelity and not number
        self._note(name, "copy", tool.copy(), start_up)
        self._compare(name, "copy", user, is_compared)
        if isinstance(tool, Raw):
            return
        self._note(name, "same", tool.again(), start_up)
        trio.run(mailbox.change, site.source, user, self.row.folders)
        self._note(name, "changed", tool.again(), start_up)
        self._compare(name, "changed", user, is_compared)
        if is_compared:
            trio.run(mailbox.rename, site.source, user, self.row.folders)
            tool.again()
            self._compare(name, "renamed", user, is_compared)
        if isinstance(tool, Moverq):
            lock_ms = tool.lock_ms(tool.cut_over())
            self.samples["moverq, lock", "ms"].append(lock_ms)
            print(f"moverq lock: {lock_ms:.0f} ms", file=sys.stderr)

    def _note(self, tool: str, step: str, used: Used, start_up: Used | None) -> None:
        self.samples[f"{tool}, {step}", "s"].append(used.seconds)
        if start_up is not None:
            self.samples[f"{tool}, {step} less start-up", "s"].append(max(0.001, used.seconds - start_up.seconds))
        if step == "copy":
            cpu_s = used.cpu_s - (start_up.cpu_s if start_up is not None else 0)
            self.samples[f"{tool}, CPU", "us/message"].append(cpu_s / self.row.messages * 1e6)
            self.samples[f"{tool}, peak memory", "MiB"].append(used.rss_mib)
        print(f"{tool} {step}: {used.seconds:.2f} s, {used.cpu_s:.2f} s of CPU", file=sys.stderr)

    def _compare(self, tool: str, step: str, user: str, is_asked: bool) -> None:
        site = self.sites[tool.startswith("dsync")]
        if tool == "moverq" or (is_asked and not tool.startswith("raw")):
            source, target = fidelity.read(site.source, user), fidelity.read(site.target, user)
            differs = fidelity.compare(source, target)
            assert tool != "moverq" or not differs, f"moverq, {step}: {differs}"
            if is_asked:
                self.kept.setdefault(tool, {})[step] = differs
                print(f"{tool} {step}: {differs or 'all is kept'}", file=sys.stderr)

    def figures(self) -> list[Figure]:
        return [Figure(name, unit, tuple(values)) for (name, unit), values in self.samples.items()]

    def ratios(self) -> dict[str, float]:
        """The others' copy against moverq's of the same round, with its start-up and without."""
        found: dict[str, float] = {}
        for step, note in (("copy", ""), ("copy less start-up", ", less start-up")):
            ours = self.samples.get((f"moverq, {step}", "s"), [])
            for name in TOOLS:
                theirs = self.samples.get((f"{name}, copy", "s"), [])
                if name != "moverq" and ours and theirs:
                    found[f"x {name}{note}"] = round(median(map(truediv, theirs, ours)), 2)
        return found


if __name__ == "__main__":
    main()
