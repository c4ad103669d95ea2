"""What the documentation says is so: its commands run, its examples run, and every verb, limit and error is named."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from uuid import uuid4

import attrs
import pytest
from cyclopts import App

import moverq.errors
from moverq.cli.__main__ import make_app
from moverq.directory.ldap_settings import read_settings
from moverq.endpoints.store import StoreError
from moverq.limits import Limits
from moverq.model.request import Status, SyncStage
from moverq.model.statistics import MoveStatistics
from moverq.model.status_detail import StatusDetail
from moverq.shown import MailboxShown
from tests.support.cli import MESSAGE, Here, organisation
from tests.support.dovecot import shared_dovecot
from tests.support.imap_world import Mailbox
from tests.support.maildir_client import MaildirClient
from tests.support.mbox_client import MboxClient
from tests.support.slapd import real_slapd

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
LDAP = DOCS / "how-to" / "keep-the-directory-in-ldap.md"
DOVECOT_SITE = "move-a-dovecot-site.md"
MAILDIRS = "move-maildirs.md"
MBOX_FILES = "move-mbox-files.md"
HOW_TO = [page for page in sorted((DOCS / "how-to").glob("*.md")) if page != LDAP]


def reference(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines that begin with `$ `, in order."""
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]


def run_commands(page: Path, folder: Path, *, root: Path | None = None, given: Mapping[str, str] | None = None) -> None:
    """In one shell, one after the other; the first that fails is named."""
    lines = commands(page)
    assert lines, f"{page} has no commands"
    script = "\n".join(f"{line} || {{ echo {shlex.quote(f'failed: {line}')} >&2; exit 1; }}" for line in lines)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if root is not None:
        environment["MOVERQ_ROOT"] = str(root)
    environment |= given or {}
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = shell.communicate(timeout=100)
    finally:
        with suppress(ProcessLookupError):  # what a page started, and a command that failed left behind
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, said


def acme(folder: Path) -> Path:
    """The organisation that the how-to pages speak of."""
    cli = Here(folder / "acme")
    organisation(cli, mailboxes=["ada@example.org", "bob@example.org", "cleo@example.org"])
    (folder / "floor-2.csv").write_text("EmailAddress,DisplayName\ncleo@example.org,Cleo\n")
    for address in ("ada@example.org", "bob@example.org"):
        cli.ok("deliver", address, stdin=MESSAGE)
    return cli.root


def servers() -> dict[str, str]:
    """The two that `DOVECOT_SITE` speaks of, with two users who have mail on the old one."""
    place = uuid4().hex
    server = shared_dovecot("mdbox")
    for name in ("alice", "bert"):
        mailbox = Mailbox(server, f"{name}.{place}.old", Random(1))
        mailbox.fill(5)
        mailbox.close()
    return {f"{side.upper()}_URL": server.url(user=f"{{local}}.{place}.{side}") for side in ("old", "new")}


def maildirs(folder: Path) -> dict[str, str]:
    """The place that `MAILDIRS` speaks of, with two users who have mail there, and the new one, which is empty."""
    for name in ("alice", "bert"):
        client = MaildirClient(folder / "old" / "example.com" / name / "Maildir")
        for wire in ("INBOX", "Sent"):
            client.make(wire)
            client.deliver(MESSAGE, wire)
    (folder / "new").mkdir()
    return {"OLD_MAIL": str(folder / "old"), "NEW_MAIL": str(folder / "new")}


def mbox_files(folder: Path) -> dict[str, str]:
    """The place that `MBOX_FILES` speaks of, with two users who have mail there, and the new one, which is empty."""
    for name in ("alice", "bert"):
        client = MboxClient(folder / "old" / "example.com" / name)
        client.make("Sent")
        client.deliver(MESSAGE, "Sent")
        spool = MboxClient(folder / "spool")
        spool.make(name)
        spool.deliver(MESSAGE, name)
    (folder / "new").mkdir()
    return {"OLD_MAIL": str(folder / "old"), "SPOOL": str(folder / "spool"), "NEW_MAIL": str(folder / "new")}


# ---- commands and examples


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "tutorial.md"], ids=lambda page: page.name)
def test_what_a_beginner_types_works(page: Path, tmp_path: Path) -> None:
    run_commands(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in HOW_TO if commands(page)], ids=lambda page: page.name)
def test_what_a_how_to_says_works(page: Path, tmp_path: Path) -> None:
    needed: dict[str, Callable[[], dict[str, str]]] = {
        DOVECOT_SITE: servers,
        MAILDIRS: partial(maildirs, tmp_path),
        MBOX_FILES: partial(mbox_files, tmp_path),
    }
    run_commands(page, tmp_path, root=acme(tmp_path), given=needed.get(page.name, dict)())


@pytest.mark.slow
def test_what_the_ldap_how_to_says_works(tmp_path: Path) -> None:
    settings, names = blocks(LDAP, "toml")
    (tmp_path / "ldap.toml").write_text(settings + names)
    assert read_settings(tmp_path / "ldap.toml").attributes.host == "mailRoutingHost"
    with real_slapd(tmp_path / "slapd") as slapd:
        (tmp_path / "ldap.toml").write_text(slapd.toml())
        run_commands(LDAP, tmp_path, root=tmp_path / "root")
        assert "mailHost: mail2.example.org" in slapd.found("(mail=ada@example.org)")


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "how-to" / "script-with-the-library.md"])
def test_the_library_examples_run(page: Path, tmp_path: Path) -> None:
    acme(tmp_path)
    examples = blocks(page, "python")
    assert examples
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_readmes_example_is_short() -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in example.splitlines() if line]) <= 10


# ---- every verb, limit and error


def verbs(app: App, words: tuple[str, ...] = ("moverq",)) -> Iterator[tuple[str, App]]:
    """Every verb of the command line, with its whole name."""
    names = [name for name in app if not name.startswith("-")]
    if not names:
        yield " ".join(words), app
    for name in names:
        yield from verbs(app[name], (*words, name))


def test_every_verb_and_option_is_in_the_reference() -> None:
    text = reference("cli")
    missing = []
    for name, app in verbs(make_app()):
        section = re.search(rf"^##+ `{name}[ `].*?(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
        if section is None:
            missing.append(name)
            continue
        for argument in app.assemble_argument_collection():
            for option in argument.parameter.name or ():
                common = option in ("--root", "--json")
                if option.startswith("--") and option not in (text if common else section.group()):
                    missing.append(f"{name} {option}")
    assert missing == []


def test_the_reference_has_no_verb_that_is_not_there() -> None:
    there = {name for name, _ in verbs(make_app())} | {f"moverq {name}" for name in make_app()}
    told = set(re.findall(r"^##+ `(moverq(?: [a-z]+)+)", reference("cli"), re.MULTILINE))
    assert told <= there


def test_every_limit_is_in_the_reference() -> None:
    text = reference("limits")
    names = [field.name for field in attrs.fields(Limits)]
    for statement in ast.parse((ROOT / "store" / "limits.py").read_text()).body:
        if isinstance(statement, ast.Assign):
            names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
    assert [name for name in names if name not in ("KIB", "MIB") and f"| `{name}` |" not in text] == []


def test_every_error_is_in_the_reference() -> None:
    ours, stores = reference("errors").split("## StoreError")
    for tree, text in ((moverq.errors.MoveError, ours), (StoreError, stores)):
        names = [kind.__name__ for kind in (tree, *tree.__subclasses__())]
        assert [name for name in names if f"`{name}`" not in text] == []


def test_every_status_is_in_the_reference() -> None:
    text = reference("statuses")
    for kind in (Status, SyncStage, StatusDetail):
        assert [one.value for one in kind if f"`{one.value}`" not in text] == []


def test_every_key_is_in_the_reference() -> None:
    text = reference("json")
    for kind in (MoveStatistics, MailboxShown):
        assert [field.name for field in attrs.fields(kind) if f"`{field.name}`" not in text] == []


def test_every_exit_code_is_in_the_reference() -> None:
    from moverq.cli import common

    codes = [value for name, value in vars(common).items() if name.isupper() and isinstance(value, int)]
    assert [code for code in codes if f"| {code} |" not in reference("exit-codes")] == []


# ---- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
