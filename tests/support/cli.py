"""The command line in tests: in this process, where it is quick, or as a real one, where it is to be killed."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, cast

import attrs

from moverq.cli.__main__ import run

MESSAGE = b"From: bob@example.net\r\nTo: ada@example.org\r\nSubject: hello\r\n\r\nhow are you?\r\n"


@attrs.frozen
class Answer:
    """What a command line said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@attrs.frozen
class Here:
    """The command line in this process, on one root."""

    root: Path

    def __call__(self, *words: str, stdin: bytes = b"") -> Answer:
        out, err = io.StringIO(), io.StringIO()
        before = sys.stdin
        sys.stdin = cast(Any, io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = run([*words, "--root", str(self.root)])
        finally:
            sys.stdin = before
        return Answer(code, out.getvalue(), err.getvalue())

    def ok(self, *words: str, stdin: bytes = b"") -> Answer:
        answer = self(*words, stdin=stdin)
        assert answer.code == 0, f"{words}: {answer}"
        return answer


@attrs.frozen
class There:
    """The command line as processes of their own, on one root."""

    root: Path

    def start(
        self,
        *words: str,
        stdin: int | None = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.PIPE,
        own_group: bool = False,
    ) -> "subprocess.Popen[bytes]":
        """`own_group`: what is sent to its process group reaches it and its children alone."""
        return subprocess.Popen(
            [sys.executable, "-m", "moverq", *words],
            env={**os.environ, "MOVERQ_ROOT": str(self.root)},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            process_group=0 if own_group else -1,
        )

    def __call__(self, *words: str, stdin: bytes = b"", timeout: float = 60.0) -> Answer:
        with self.start(*words, stdin=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Answer(process.returncode, out.decode(), err.decode())

    def ok(self, *words: str, stdin: bytes = b"") -> Answer:
        answer = self(*words, stdin=stdin)
        assert answer.code == 0, f"{words}: {answer}"
        return answer


def organisation(cli: Here | There, *, mailboxes: Sequence[str] = ("ada@example.org",), version: str = "2010") -> None:
    """Two servers, a database on each, and mailboxes in DB1."""
    for words in (
        ("init",),
        ("server", "add", "EX1", "--version", version),
        ("server", "add", "EX2", "--version", "2010"),
        ("database", "add", "DB1", "--server", "EX1"),
        ("database", "add", "DB2", "--server", "EX2"),
    ):
        cli.ok(*words)
    for address in mailboxes:
        cli.ok("mailbox", "add", address, "--database", "DB1")
