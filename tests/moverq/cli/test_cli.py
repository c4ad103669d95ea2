"""The command line's verbs, their answers and their exit codes, in one process."""

import io
import json
import mailbox
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import trio

from moverq import open_root
from moverq.cli import common
from moverq.cli.__main__ import GROUPS, run
from moverq.cli.progress import BAR, COLUMNS, fitting
from moverq.cli.worker import checked_limits
from moverq.directory.sqlite import SqliteDirectory
from moverq.endpoints.store import StoreEndpoint, StoreMailbox, open_endpoint
from moverq.errors import EndpointUnavailable
from moverq.flow.file_lock import FileLock
from moverq.ledger.ledger import Ledger
from moverq.limits import Limits
from tests.support.cli import MESSAGE, Here, There

ADA = "ada@example.org"


def lock(root: Path, *, token: int = 10_000) -> None:
    """Somebody is finalizing a move of the mailbox."""

    async def at_home() -> None:
        async with open_root(root) as opened:
            home = (await opened.directory.locate(ADA)).register.home
            await (await opened.store(home.database)).source(home.instance).lock(token)

    trio.run(at_home)


# ---- the life of a mailbox


def test_a_mailbox_is_made_filled_moved_and_taken_back(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    answer = cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    assert "DB1 -> DB2  Completed" in answer.out
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert (shown["address"], shown["database"], shown["epoch"], shown["guard"]) == (ADA, "DB2", 2, "open")
    assert (shown["items"], shown["bytes"], shown["folders"]) == (1, len(MESSAGE), 1)
    cli.ok("deliver", ADA, stdin=MESSAGE + b"again\r\n")
    cli.ok("move", "rollback", ADA, "--wait")
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert (shown["database"], shown["epoch"], shown["items"]) == ("DB1", 3, 2)


def test_moves_are_listed_newest_first_with_the_documented_keys(cli: Here) -> None:
    cli.ok("mailbox", "add", "bob@example.org", "--database", "DB1")
    cli.ok("move", "new", ADA, "--to", "DB2", "--batch", "spring")
    cli.ok("move", "new", "bob@example.org", "--to", "DB2")
    found = cli.ok("move", "list", "--json").json
    assert [one["address"] for one in found] == ["bob@example.org", ADA]
    for key in (
        "status",
        "status_detail",
        "sync_stage",
        "percent_complete",
        "bytes_transferred",
        "items_transferred",
        "bad_items_encountered",
        "queued_timestamp",
        "completion_timestamp",
        "total_finalization_duration",
        "address",
        "source_database",
        "target_database",
        "batch_name",
        "epoch",
        "lock_ms",
        "lock_attempts",
        "digest_source",
        "digest_target",
        "digest_ledger",
    ):
        assert key in found[0]
    assert [one["address"] for one in cli.ok("move", "list", "--batch", "spring", "--json").json] == [ADA]
    assert cli.ok("move", "list", "--status", "Failed", "--json").json == []
    assert cli.ok("move", "list", "--to", "DB1", "--json").json == []


def test_the_worker_drains_what_is_queued(cli: Here) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2")
    assert cli.ok("move", "show", ADA, "--json").json["status"] == "Queued"
    assert "status=Completed" in cli.ok("worker", "--drain", "--processes", "1").err
    found = cli.ok("move", "show", ADA, "--json").json
    assert found["status"] == "Completed"
    assert found["digest_source"] == found["digest_target"] == found["digest_ledger"]


def test_how_many_moves_a_worker_has_at_work_from_and_into_a_database_can_be_said(cli: Here) -> None:
    """A mail server is one database, so more at once may have to go through one server, too."""
    limits = checked_limits(60)
    assert limits.max_active_moves_per_source_mdb == limits.max_active_moves_per_target_mdb == 60
    assert limits.max_active_moves_per_source_server == limits.max_active_moves_per_target_server == 60
    assert checked_limits(1).max_active_moves_per_target_server == Limits().max_active_moves_per_target_server
    assert checked_limits(None) == Limits()
    for number in ("0", "101"):
        refused = cli("worker", "--drain", "--per-database", number)
        assert refused.code == common.REFUSED
        assert f"--per-database {number}: say 1 to 100" in refused.err
    cli.ok("move", "new", ADA, "--to", "DB2")
    assert "status=Completed" in cli.ok("worker", "--drain", "--processes", "1", "--per-database", "7").err


def test_a_move_waits_before_its_cutover_where_it_was_told_to(cli: Here) -> None:
    answer = cli.ok("move", "new", ADA, "--to", "DB2", "--suspend-when-ready", "--wait")
    assert "AutoSuspended" in answer.out
    assert cli.ok("mailbox", "show", ADA, "--json").json["database"] == "DB1"
    explained = cli.ok("move", "explain", ADA, "--json").json
    assert "move complete" in explained["why"]
    assert {"since", "what_a_crash_now_would_do", "what_next"} <= set(explained)
    cli.ok("move", "complete", ADA, "--wait")
    assert cli.ok("mailbox", "show", ADA, "--json").json["database"] == "DB2"


def test_a_move_that_is_to_wait_is_well_when_it_is_resumed_and_waits(cli: Here) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2", "--suspend-when-ready", "--suspend", "--wait")
    cli.ok("move", "resume", ADA, "--wait")
    assert cli.ok("move", "show", ADA, "--json").json["status"] == "AutoSuspended"
    cli.ok("move", "complete", ADA, "--wait")


def test_a_completed_move_is_ended_before_the_next_one(cli: Here) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    refused = cli("move", "new", ADA, "--to", "DB1")
    assert refused.code == common.REFUSED
    assert "moverq move complete" in refused.err
    cli.ok("move", "complete", ADA, "--wait")
    refused = cli("move", "rollback", ADA)
    assert refused.code == common.REFUSED
    assert "empty it first" in refused.err
    cli.ok("move", "new", ADA, "--to", "DB1", "--wait")
    assert cli.ok("mailbox", "show", ADA, "--json").json["epoch"] == 3


def test_suspend_resume_and_remove(cli: Here) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2", "--suspend", "--wait")
    assert cli.ok("move", "show", ADA, "--json").json["status"] == "Suspended"
    cli.ok("move", "set", ADA, "--priority", "High", "--lock-budget", "500")
    assert cli.ok("move", "show", ADA, "--json").json["lock_budget_ms"] == 500
    cli.ok("move", "resume", ADA, "--wait")
    assert cli.ok("move", "show", ADA, "--json").json["status"] == "Completed"
    cli.ok("mailbox", "add", "bob@example.org", "--database", "DB1")
    cli.ok("move", "new", "bob@example.org", "--to", "DB2", "--suspend-when-ready", "--wait")
    cli.ok("move", "suspend", "bob@example.org")
    cli.ok("move", "remove", "bob@example.org", "--wait")
    assert cli("move", "show", "bob@example.org").code == common.NOT_FOUND
    assert cli.ok("mailbox", "show", "bob@example.org", "--json").json["guard"] == "open"


def test_a_move_in_its_soak_is_ended_before_it_is_removed_and_its_old_mailbox_is_purged(cli: Here) -> None:
    """Also where the request is gone before the retention is over."""
    cli.ok("deliver", ADA, stdin=MESSAGE)
    cli.ok("move", "new", ADA, "--to", "DB2", "--retention", "1s", "--wait")
    refused = cli("move", "remove", ADA, "--wait")
    assert (refused.code, refused.out) == (common.REFUSED, "")
    assert "its soak is not over: end that with `moverq move complete" in refused.err
    assert cli.ok("move", "show", ADA, "--json").json["sync_stage"] == "Soak"
    cli.ok("move", "complete", ADA, "--wait")
    cli.ok("move", "remove", ADA, "--wait")
    assert cli.ok("move", "list", "--json").json == []
    time.sleep(1.1)
    assert cli.ok("store", "header", "DB1", "--json").json["mailboxes"] == 1
    assert cli.ok("store", "maintain", "DB1", "--json").json["mailboxes_purged"] == 1
    header = cli.ok("store", "header", "DB1", "--json").json
    assert (header["mailboxes"], header["bytes"]) == (0, 0)
    assert cli.ok("store", "maintain", "DB2", "--json").json["mailboxes_purged"] == 0
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 1


def test_a_move_in_its_soak_is_removed_by_force_and_the_old_mailbox_stays(cli: Here) -> None:
    cli.ok("mailbox", "add", "bob@example.org", "--database", "DB1")
    cli.ok("move", "new", ADA, "--to", "DB2", "--retention", "0s", "--wait")
    cli.ok("move", "new", "bob@example.org", "--to", "DB2", "--suspend", "--wait")
    answer = cli("move", "remove", ADA, "bob@example.org", "--wait", "--json")
    assert (answer.code, "its soak is not over" in answer.err) == (common.FAILED, True)
    assert [one["removed"] for one in answer.json] == [True]
    assert cli.ok("move", "remove", ADA, "--force", "--wait", "--json").json[0]["removed"]
    cli.ok("store", "maintain", "DB1")
    left = cli.ok("store", "header", "DB1", "--json").json["instances"]
    assert [(one["guard"], one["known_to"]) for one in left if one["guard"] != "open"] == [("retired", None)]


def test_a_queued_move_that_is_to_be_suspended_says_so_before_a_worker_has_seen_it(cli: Here) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2")
    assert "DB1 -> DB2  Queued (suspend)" in cli.ok("move", "suspend", ADA).out
    assert "Queued (suspend)" in cli.ok("move", "list").out
    shown = cli.ok("move", "list", "--json").json[0]
    assert (shown["status"], shown["suspend"]) == ("Queued", True)
    cli.ok("move", "resume", ADA)
    assert "(suspend)" not in cli.ok("move", "list").out


@pytest.mark.parametrize("verb", ["show", "complete", "remove", "rollback"])
def test_an_empty_name_names_no_request_also_where_there_is_one_alone(cli: Here, verb: str) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2", "--suspend")
    answer = cli("move", verb, "")
    assert (answer.code, "'' names none" in answer.err) == (common.REFUSED, True)


def test_a_batch_is_named_at_once(cli: Here) -> None:
    cli.ok("mailbox", "add", "bob@example.org", "--database", "DB1")
    cli.ok("move", "new", ADA, "bob@example.org", "--to", "DB2", "--batch", "spring", "--suspend-when-ready", "--wait")
    cli.ok("move", "complete", "--batch", "spring", "--wait")
    assert {one["database"] for one in cli.ok("mailbox", "list", "--json").json} == {"DB2"}
    assert cli("move", "complete", "--batch", "autumn").code == common.NOT_FOUND
    assert cli.ok("move", "list", "--batch", "spring", "--status", "Failed", "--json").json == []


def test_one_refusal_in_a_batch_does_not_keep_the_others_from_it(cli: Here) -> None:
    answer = cli("move", "new", "nobody@example.org", ADA, "--to", "DB2", "--json", "--wait")
    assert answer.code == common.FAILED
    assert "nobody@example.org" in answer.err
    assert answer.json["status"] == "Completed"


def test_an_old_source_is_moved_offline(tmp_path: Path) -> None:
    from tests.support.cli import organisation

    cli = Here(tmp_path / "root")
    organisation(cli, version="2003")
    cli.ok("deliver", ADA, stdin=MESSAGE)
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    found = cli.ok("move", "show", ADA, "--json").json
    assert (found["status"], found["is_offline"]) == ("Completed", True)


def test_the_report_is_text_and_json(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    assert "digests" in cli.ok("move", "report", ADA).out
    report = cli.ok("move", "report", ADA, "--json").json["report"]
    assert report["lock_attempts"][0]["outcome"] == "committed"
    assert {stage["sync_stage"] for stage in report["stages"]} >= {"CopyingMessages", "FinalIncrementalSync"}


# ---- deliveries


def test_a_delivery_is_there_once_however_often_it_comes(cli: Here) -> None:
    assert "before" not in cli.ok("deliver", ADA, "--sender", "bob@example.net", stdin=MESSAGE).out
    assert "before" in cli.ok("deliver", ADA, "--sender", "bob@example.net", stdin=MESSAGE).out
    cli.ok("deliver", ADA, "--key", "q1", stdin=MESSAGE)
    cli.ok("deliver", ADA, "--key", "q1", stdin=MESSAGE)
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 2


def test_the_line_that_postfix_puts_in_front_is_no_part_of_a_delivery(cli: Here, tmp_path: Path) -> None:
    first, again = (b"From bob@example.net  Mon Nov 23 16:00:0%d 2026\n" % second for second in (1, 2))
    assert "before" not in cli.ok("deliver", ADA, stdin=first + MESSAGE).out
    assert "before" in cli.ok("deliver", ADA, stdin=again + MESSAGE).out
    cli.ok("deliver", ADA, stdin=b"From : bob@example.net\r\n\r\n")
    cli.ok("mailbox", "export", ADA, str(tmp_path / "out"), "--format", "eml")
    found = {path.read_bytes() for path in (tmp_path / "out").rglob("*.eml")}
    assert found == {MESSAGE, b"From : bob@example.net\r\n\r\n"}


def test_a_delivery_to_a_locked_mailbox_exits_75(cli: Here) -> None:
    lock(cli.root)
    answer = cli("deliver", ADA, stdin=MESSAGE)
    assert answer.code == 75
    assert "locked" in answer.err
    assert cli.ok("mailbox", "show", ADA, "--json").json["guard"] == "locked"


def test_a_delivery_stays_with_the_mta_when_it_is_not_the_messages_fault(cli: Here, tmp_path: Path) -> None:
    assert cli("deliver", "nobody@example.org", stdin=MESSAGE).code == common.NOT_FOUND
    (cli.root / "directory.sqlite").write_bytes(b"x" * 8192)
    assert cli("deliver", ADA, stdin=MESSAGE).code == 75


def test_an_answer_is_given_in_any_locale_and_with_streams_closed(cli: Here) -> None:
    """A locale that cannot say a folder's name is no reason for a traceback; nor is a shell's `>&-`."""
    cli.ok("mailbox", "set", ADA, "x-note", '"日本"')
    command = f"{sys.executable} -m moverq"
    env = {**os.environ, "MOVERQ_ROOT": str(cli.root), "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}

    def shell(line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["bash", "-c", line], env=env, capture_output=True, timeout=60)

    shown = shell(f"{command} mailbox show {ADA} --json")
    assert json.loads(json.loads(shown.stdout)["settings"]["x-note"]) == "日本"
    for line, code in (
        (f"{command} mailbox show {ADA}", 0),
        (f"{command} mailbox list >&-", 0),
        (f"{command} mailbox show $'\\xff@example.org'", 3),
        (f"{command} deliver $'\\xff@example.org' <<< 'Subject: x'", 3),
        (f"{command} deliver {ADA} <&-", 4),
    ):
        done = shell(line)
        assert (done.returncode, b"Traceback" in done.stderr) == (code, False), (line, done)


def test_a_second_import_at_the_same_time_is_not_begun(cli: Here, tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "1.eml").write_bytes(MESSAGE)
    mailbox_id = cli.ok("mailbox", "show", ADA, "--json").json["mailbox_id"]
    other = FileLock(cli.root / "imports" / f"{mailbox_id}.lock")
    assert other.try_acquire()
    answer = cli("mailbox", "import", ADA, str(tmp_path / "mail"))
    assert (answer.code, "another import into it is at work" in answer.err) == (75, True)
    other.release()
    cli.ok("mailbox", "import", ADA, str(tmp_path / "mail"))
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 1


def test_mail_and_who_is_moved_are_for_nobody_elses_eyes(tmp_path: Path) -> None:
    Here(tmp_path / "new").ok("init")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


# ---- what is refused, and how


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["mailbox", "show", "nobody@example.org"], common.NOT_FOUND, "nobody@example.org"),
        (["lmtp", "--listen", "0.0.0.0:2424"], common.REFUSED, "no login"),
        (["lmtp", "--listen", "here"], common.REFUSED, "nothing to listen at"),
        (["lmtp", "--size-max", "0"], common.REFUSED, "no message"),
        (["lmtp", "--socket-mode", "rw"], common.USAGE, "no file mode"),
        (["lmtp", "--lock-wait", "soon"], common.USAGE, "no duration"),
        (["init", "--directory", "missing.toml"], common.REFUSED, "of its own already"),
        (["move", "new", "nobody@example.org", "--to", "DB2"], common.NOT_FOUND, "no mailbox nobody@example.org"),
        (["move", "new", ADA, "--to", "DB1"], common.REFUSED, "is in DB1 already"),
        (["move", "new", ADA, "--to", "DB9"], common.NOT_FOUND, "no database DB9"),
        (["move", "new", ADA], common.USAGE, "--to"),
        (["move", "new", ADA, "--to", "DB2", "--bad-item-limit", "-3"], common.USAGE, "--bad-item-limit"),
        (["move", "new", ADA, "--to", "DB2", "--bad-item-limit", "unlimited"], common.REFUSED, "accept-large-data"),
        (["move", "new", ADA, "--to", "DB2", "--soak", "soon"], common.USAGE, "'soon' is no duration"),
        (["move", "new", ADA, "--to", "DB2", "--complete-after", "soon"], common.USAGE, "'soon' is no date"),
        (["move", "suspend"], common.REFUSED, "name a request"),
        (["move", "show", "abc"], common.NOT_FOUND, "no move request abc"),
        (["mailbox", "add", ADA, "--database", "DB2"], common.REFUSED, "is taken"),
        (["mailbox", "add", "nonsense", "--database", "DB2"], common.REFUSED, "not an address"),
        (["mailbox", "add", "../../x@../../y", "--database", "DB2"], common.REFUSED, "not an address"),
        (["mailbox", "add", "<bob@x.org>", "--database", "DB2"], common.REFUSED, "not an address"),
        (["mailbox", "add", "x" * 300 + "@x.org", "--database", "DB2"], common.REFUSED, "not an address"),
        (["mailbox", "add", "a@..", "--database", "DB2"], common.REFUSED, "not an address"),
        (["mailbox", "add", "b@x.org", "--database", "DB2", "--quota", "9" * 30], common.REFUSED, "bytes is none"),
        (["mailbox", "list", "--database", "DB9"], common.NOT_FOUND, "no database DB9"),
        (["move", "list", "--from", "DB9"], common.NOT_FOUND, "no database DB9"),
        (["move", "list", "--batch", "autumn"], common.NOT_FOUND, "no migration batch autumn"),
        (["move", "new", ADA, "--to", "DB2", "--soak", "9" * 20 + "d"], common.USAGE, "hundred years"),
        (["move", "new", ADA, "--to", "DB2", "--complete-after", "+1000000000d"], common.USAGE, "hundred years"),
        (["move", "new", ADA, "--to", "DB2", "--lock-budget", "9" * 30], common.REFUSED, "a lock budget is from 1"),
        (["mailbox", "set", ADA, "colour", "1"], common.REFUSED, "no setting 'colour'"),
        (["mailbox", "import", ADA, "/there/is/nothing"], common.NOT_FOUND, "/there/is/nothing"),
        (["server", "add", "EX3", "--version", "banana"], common.REFUSED, "'banana' is no version"),
        (["server", "add", "EX1"], common.REFUSED, "a server EX1 already"),
        (["database", "add", "DB1", "--server", "EX1"], common.REFUSED, "a database DB1 already"),
        (["database", "add", "DB3", "--server", "EX1", "--path", "imap:/foo"], common.REFUSED, "no place of mailboxes"),
        (["database", "add", "DB3", "--server", "EX9"], common.NOT_FOUND, "no server EX9"),
        (["database", "add", "../DB3", "--server", "EX1"], common.REFUSED, "is no name for a database"),
        (["init"], common.REFUSED, "is already the directory"),
        (["store", "header", "DB9"], common.NOT_FOUND, "no database DB9"),
        (["frobnicate"], common.USAGE, "frobnicate"),
        (["move", "frobnicate"], common.USAGE, "frobnicate"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(cli: Here, words: list[str], code: int, said: str) -> None:
    answer = cli(*words)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["frobnicate"], "See `moverq --help`."),
        (["move", "frobnicate"], "See `moverq move --help`."),
        (["database", "delete", "DB1"], "See `moverq database --help`."),
        (["move", "new", ADA], "See `moverq move new --help`."),
        (["worker", "now"], "See `moverq worker --help`."),
    ],
)
def test_after_what_was_not_understood_the_hint_names_a_verb_that_there_is(
    cli: Here, words: list[str], hint: str
) -> None:
    assert hint in cli(*words).err


def test_a_mailbox_that_is_moving_is_not_moved_again(cli: Here) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2")
    answer = cli("move", "new", ADA, "--to", "DB2")
    assert answer.code == common.REFUSED
    assert "is being moved by request" in answer.err
    again = cli.ok("move", "list", "--json").json
    assert len(again) == 1


def test_the_same_key_asks_for_the_same_move(cli: Here) -> None:
    first = cli.ok("move", "new", ADA, "--to", "DB2", "--key", "k", "--json").json
    assert cli.ok("move", "new", ADA, "--to", "DB2", "--key", "k", "--json").json["request_id"] == first["request_id"]


OLD, NEW = "maildir:{tmp}/old/%u", "maildir:{tmp}/new/%u"
AWAY = "imap://127.0.0.1:1/?tls=none&password-env=HOME"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["bob@example.org", "--from", OLD, "--to", NEW, "--lock-budget", "0"], common.REFUSED, "a lock budget"),
        (["bob@example.org", "--from", OLD, "--to", NEW, "--bad-item-limit", "51"], common.REFUSED, "may lose much"),
        (["bob@example.org", "--from", OLD, "--to", "DB9"], common.NOT_FOUND, "no database DB9"),
        (["bob@example.org", "--from", OLD, "--to", OLD], common.REFUSED, "is in maildir already"),
        (["bob@example.org", "--from", OLD, "--to", NEW, "--key", "of ada"], common.REFUSED, "is that of another"),
        (["nobody@example.org", "--from", OLD, "--to", NEW], common.REFUSED, "no mailbox of nobody@example.org"),
        (["nonsense", "--from", OLD, "--to", NEW], common.REFUSED, "not an address"),
        (["nobody@example.org", "--to", NEW], common.NOT_FOUND, "no mailbox nobody@example.org"),
        (["bob@example.org", "--from", "DB1", "--to", "DB2"], common.NOT_FOUND, "no mailbox bob@example.org"),
        (["bob@example.org", "--from", "DB1", "--to", NEW], common.NOT_FOUND, "moverq mailbox add"),
        (["bob@example.org", "--from", AWAY, "--to", NEW], common.TEMPORARY, "127.0.0.1"),
        ([ADA, "--from", OLD, "--to", NEW], common.REFUSED, "is in DB1, not in maildir"),
        ([ADA, "--to", NEW], common.REFUSED, "is being moved by request"),
    ],
)
def test_a_move_that_is_refused_registers_nothing(
    cli: Here, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "old").mkdir()
    mailbox.Maildir(tmp_path / "old" / "bob@example.org")
    cli.ok("move", "new", ADA, "--to", "DB2", "--suspend", "--key", "of ada")

    def registered() -> list[str]:
        return [cli.ok(kind, "list").out for kind in ("server", "database", "mailbox", "move")]

    before = registered()
    refused = cli("move", "new", *(word.format(tmp=tmp_path) for word in words))
    assert (refused.code, said in refused.err) == (code, True), refused
    assert registered() == before


def test_of_several_moves_the_one_that_is_not_refused_registers_what_it_needs(cli: Here, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    mailbox.Maildir(tmp_path / "old" / "bob@example.org")
    places = ("--from", OLD.format(tmp=tmp_path), "--to", NEW.format(tmp=tmp_path))
    words = ("move", "new", "nobody@example.org", "bob@example.org", *places, "--key", "k", "--suspend")
    for _ in range(2):
        assert cli(*words).code == common.FAILED
        assert [one["name"] for one in cli.ok("database", "list", "--json").json[2:]] == ["maildir", "maildir-2"]
        assert [one["address"] for one in cli.ok("mailbox", "list", "--json").json] == [ADA, "bob@example.org"]
        assert len(cli.ok("move", "list", "--json").json) == 1


@pytest.mark.parametrize("words", [["mailbox", "list"], ["move", "list"], ["worker", "--processes", "1"]])
def test_a_missing_root_is_said_with_what_to_do(tmp_path: Path, words: list[str]) -> None:
    answer = Here(tmp_path / "nothing")(*words)
    assert answer.code == common.NOT_FOUND
    assert f"moverq init --root {tmp_path / 'nothing'}" in answer.err


def test_init_leaves_what_lies_in_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear all")
    Here(tmp_path).ok("init")
    assert (tmp_path / "letter.txt").read_text() == "dear all"


def test_init_that_was_cut_short_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "databases").mkdir()
    (tmp_path / "moves").mkdir()
    Here(tmp_path).ok("init")
    Here(tmp_path).ok("mailbox", "list")


def test_a_database_whose_entry_was_lost_on_the_way_is_taken(cli: Here) -> None:
    from moverq.endpoints.store import make_database

    make_database("DB3", cli.root / "databases" / "DB3")
    cli.ok("database", "add", "DB3", "--server", "EX1")
    cli.ok("mailbox", "add", "bob@example.org", "--database", "DB3")


def test_a_failed_move_is_explained_and_exits_1(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok("mailbox", "add", "bob@example.org", "--database", "DB1", "--quota", "100")
    cli.ok("deliver", "bob@example.org", stdin=MESSAGE)

    async def shrink() -> None:
        async with open_root(cli.root) as root:
            from moverq.flow.sqlite import transaction

            with transaction(root.directory._connection) as db:
                db.execute("UPDATE recipient SET quota_bytes = 1 WHERE address = 'bob@example.org'")

    trio.run(shrink)
    answer = cli("move", "new", "bob@example.org", "--to", "DB2", "--wait")
    assert answer.code == common.FAILED
    assert "quota" in answer.err
    assert "Next:" in answer.err
    answer = cli("move", "complete", "bob@example.org")
    assert (answer.code, "Next: cure what it names" in answer.err) == (common.FAILED, True)
    cli.ok("move", "resume", "bob@example.org")
    cli.ok("move", "complete", "bob@example.org")


def test_a_bug_shows_its_traceback_and_a_sentence(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise AssertionError("an invariant")

    monkeypatch.setattr(Ledger, "find", broken)
    answer = cli("move", "list")
    assert answer.code == common.BUG
    assert "Traceback" in answer.err
    assert "bug in moverq" in answer.err


def test_an_interrupt_says_how_to_go_on(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "find", interrupted)
    answer = cli("move", "list")
    assert answer.code == common.INTERRUPTED
    assert "Nothing that was acknowledged is lost" in answer.err
    assert "Traceback" not in answer.err


# ---- import and export


def test_mail_comes_in_and_goes_out_byte_for_byte(cli: Here, tmp_path: Path) -> None:
    source = mailbox.Maildir(tmp_path / "in")
    for number in range(5):
        source.add(MESSAGE + b"number %d\r\n" % number)
    first = cli.ok("mailbox", "import", ADA, str(tmp_path / "in"), "--json").json
    assert (first["items"], first["present"], first["not_imported"]) == (5, 0, [])
    for form in ("maildir", "mbox", "eml"):
        cli.ok("mailbox", "export", ADA, str(tmp_path / form), "--format", form)
        again = cli.ok("mailbox", "import", ADA, str(tmp_path / form), "--json").json
        assert (again["items"], again["present"]) == (0, 5), form
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 5
    assert cli("mailbox", "export", ADA, str(tmp_path / "eml"), "--format", "eml").code == common.REFUSED


def test_what_the_files_hold_twice_comes_twice_and_no_oftener(cli: Here, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.eml", "b.eml"):
        (folder / name).write_bytes(MESSAGE)
    assert cli.ok("mailbox", "import", ADA, str(folder), "--json").json["items"] == 2
    (folder / "c.eml").write_bytes(MESSAGE)
    assert cli.ok("mailbox", "import", ADA, str(folder), "--json").json["items"] == 1
    assert cli.ok("mailbox", "import", ADA, str(folder), "--append", "--json").json["items"] == 3
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 6


def test_what_is_no_mail_is_reported_and_left_out(cli: Here, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.eml").write_bytes(MESSAGE)
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" * 1000)
    answer = cli.ok("mailbox", "import", ADA, str(folder), "--json")
    assert [Path(one["path"]).name for one in answer.json["not_imported"]] == ["photo.jpg"]
    assert "photo.jpg" in answer.err
    (folder / "a.eml").unlink()
    assert cli("mailbox", "import", ADA, str(folder)).code == common.FAILED


def test_an_import_that_could_not_read_everything_exits_1(cli: Here, tmp_path: Path) -> None:
    """A whole folder may be missing."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.eml").write_bytes(MESSAGE)
    (folder / "b.eml").symlink_to(folder / "b.eml")
    answer = cli("mailbox", "import", ADA, str(folder))
    assert (answer.code, "imported 1 message," in answer.out, "1 could not be imported" in answer.out) == (
        1,
        True,
        True,
    )


def test_an_import_beyond_the_quota_says_so_and_keeps_what_fits(cli: Here, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.eml").write_bytes(MESSAGE)
    cli.ok("mailbox", "set", ADA, "quota_bytes", "10")
    answer = cli("mailbox", "import", ADA, str(folder))
    assert answer.code == common.REFUSED
    assert "quota" in answer.err


def test_settings_and_aliases(cli: Here) -> None:
    cli.ok("mailbox", "set", ADA, "retention_days", "30")
    cli.ok("mailbox", "set", ADA, "x-colour", "blue")
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert {name: json.loads(text) for name, text in shown["settings"].items()} == {
        "retention_days": 30,
        "x-colour": "blue",
    }
    cli.ok("mailbox", "set", ADA, "x-colour", "null")
    assert "x-colour" not in cli.ok("mailbox", "show", ADA, "--json").json["settings"]
    cli.ok("mailbox", "alias", ADA, "countess@example.org")
    cli.ok("deliver", "countess@example.org", stdin=MESSAGE)
    assert cli.ok("mailbox", "show", "countess@example.org", "--json").json["items"] == 1


def test_a_mailbox_is_removed_and_purged_after_its_retention(cli: Here) -> None:
    cli.ok("mailbox", "alias", ADA, "countess@example.org")
    cli.ok("deliver", ADA, stdin=MESSAGE)
    refused = cli("mailbox", "remove", ADA)
    assert (refused.code, refused.out) == (common.REFUSED, "")
    assert "the mailbox of ada@example.org holds 1 item;" in refused.err
    instance = cli.ok("mailbox", "show", ADA, "--json").json["instance"]
    gone = cli.ok("mailbox", "remove", "countess@example.org", "--force", "--retention", "1s", "--json").json
    assert (gone["address"], gone["database"], gone["instance"]) == (ADA, "DB1", instance)
    assert (gone["items"], gone["bytes"], gone["kept_until"][:2]) == (1, len(MESSAGE), "20")
    for address in (ADA, "countess@example.org"):
        assert cli("mailbox", "show", address).code == cli("deliver", address, stdin=MESSAGE).code == common.NOT_FOUND
    assert cli("mailbox", "remove", ADA).code == common.NOT_FOUND
    assert cli.ok("store", "header", "DB1", "--json").json["instances"] == []
    time.sleep(1.1)
    assert cli.ok("store", "maintain", "DB1", "--json").json["mailboxes_purged"] == 1
    cli.ok("mailbox", "add", ADA, "--database", "DB1")
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 0
    assert "0 items kept until" in cli.ok("mailbox", "remove", ADA).out


def test_a_mailbox_that_a_move_request_names_is_not_removed(cli: Here) -> None:
    cli.ok("move", "new", ADA, "--to", "DB2", "--retention", "0s", "--wait")
    for _ in range(2):
        refused = cli("mailbox", "remove", ADA, "--force")
        assert (refused.code, "moverq move remove" in refused.err) == (common.REFUSED, True)
        cli.ok("move", "complete", ADA, "--wait")
    assert cli.ok("mailbox", "show", ADA, "--json").json["guard"] == "open"
    cli.ok("move", "remove", ADA, "--wait")
    cli.ok("mailbox", "remove", ADA)


def test_a_crash_of_a_mailboxs_removal_leaves_it_whole_or_as_one_that_nobody_names(
    cli: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setattr(SqliteDirectory, "remove_recipient", killed)
        assert cli("mailbox", "remove", ADA).code == common.INTERRUPTED
    assert cli.ok("mailbox", "show", ADA, "--json").json["guard"] == "open"
    assert cli.ok("mailbox", "list", "--disconnected", "--json").json == []
    cli.ok("deliver", ADA, stdin=MESSAGE)
    with monkeypatch.context() as between:
        between.setattr(StoreMailbox, "retire", killed)
        assert cli("mailbox", "remove", ADA, "--force").code == common.INTERRUPTED
    assert cli("mailbox", "show", ADA).code == common.NOT_FOUND
    (left,) = cli.ok("store", "header", "DB1", "--json").json["instances"]
    assert (left["items"], left["known_to"]) == (1, None)
    (shown,) = cli.ok("mailbox", "list", "--disconnected", "--json").json
    assert (shown["address"], shown["items"], shown["kept_until"]) == (ADA, 1, None)
    cli.ok("mailbox", "connect", ADA)
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 1


def test_a_removed_mailbox_is_connected_again_with_all_that_it_had(cli: Here) -> None:
    cli.ok("mailbox", "alias", ADA, "countess@example.org")
    cli.ok("mailbox", "alias", ADA, "lady@example.org")
    cli.ok("mailbox", "set", ADA, "quota_bytes", "1000000")
    cli.ok("deliver", ADA, stdin=MESSAGE)
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    cli.ok("move", "complete", ADA, "--wait")
    cli.ok("move", "remove", ADA, "--wait")
    before = cli.ok("mailbox", "show", ADA, "--json").json
    gone = cli.ok("mailbox", "remove", ADA, "--force", "--json").json
    listed = cli.ok("mailbox", "list", "--disconnected", "--json").json
    assert [(one["address"], one["database"], one["reason"]) for one in listed] == [
        (None, "DB1", "Moved"),
        (ADA, "DB2", "Removed"),
    ]
    removed = listed[1]
    assert removed["aliases"] == ["countess@example.org", "lady@example.org"]
    assert (removed["instance"], removed["kept_until"]) == (before["instance"], gone["kept_until"])
    assert removed["removed"][:4] == gone["kept_until"][:4] or removed["removed"] < gone["kept_until"]
    assert "Moved to DB2" in cli.ok("mailbox", "list", "--disconnected").out
    cli.ok("mailbox", "add", "lady@example.org", "--database", "DB1")
    back = cli.ok("mailbox", "connect", ADA, "--json")
    assert (back.json["address"], back.json["database"], back.json["items"]) == (ADA, "DB2", 1)
    assert (back.json["aliases"], back.json["aliases_taken"]) == (["countess@example.org"], ["lady@example.org"])
    assert "lady@example.org is another mailbox's" in back.err
    after = cli.ok("mailbox", "show", ADA, "--json").json
    for same in ("mailbox_id", "instance", "items", "bytes", "guard", "quota_bytes", "settings", "database"):
        assert after[same] == before[same], same
    cli.ok("deliver", ADA, stdin=MESSAGE + b"again\r\n")
    cli.ok("move", "new", ADA, "--to", "DB1", "--wait")
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 2


def test_what_has_a_home_was_moved_away_or_purged_is_not_connected(cli: Here) -> None:
    def refused(*words: str) -> tuple[int, str]:
        found = cli("mailbox", "connect", *words)
        return found.code, found.err

    code, said = refused(ADA)
    assert (code, "has a mailbox, in DB1" in said) == (common.REFUSED, True)
    code, said = refused("bob@example.org")
    assert (code, "no disconnected mailbox of bob@example.org" in said) == (common.NOT_FOUND, True)
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    cli.ok("move", "complete", ADA, "--wait")
    (old,) = cli.ok("mailbox", "list", "--disconnected", "--json").json
    assert (old["address"], old["reason"], old["moved_to"]) == (ADA, "Moved", "DB2")
    code, said = refused(ADA)
    assert (code, "has a mailbox, in DB2" in said, "move rollback" in said) == (common.REFUSED, True, True)
    code, said = refused("bob@example.org", "--instance", old["instance"][:8])
    assert (code, "was moved to DB2" in said) == (common.REFUSED, True)
    cli.ok("move", "remove", ADA, "--wait")
    cli.ok("mailbox", "remove", ADA)
    cli.ok("mailbox", "add", ADA, "--database", "DB1")
    code, said = refused(ADA)
    assert (code, "another address, with --instance" in said) == (common.REFUSED, True)
    cli.ok("mailbox", "remove", ADA, "--retention", "0s")
    code, said = refused(ADA)
    assert (code, "2 removed mailboxes" in said) == (common.REFUSED, True)
    assert cli.ok("store", "maintain", "DB1", "--json").json["mailboxes_purged"] == 1
    assert refused(ADA, "--database", "DB1")[0] == common.NOT_FOUND
    cli.ok("mailbox", "connect", ADA)
    cli.ok("mailbox", "remove", ADA, "--retention", "0s")
    cli.ok("store", "maintain", "DB2")
    assert refused(ADA)[0] == common.NOT_FOUND


def test_an_old_mailbox_that_a_directory_fallen_back_has_for_a_home_is_not_connected(cli: Here) -> None:
    """Its newer one is open: there would be two."""
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    cli.ok("move", "complete", ADA, "--wait")

    async def fall_back() -> None:
        async with open_root(cli.root) as opened:
            (old,) = await opened.mailbox_disconnected()
            present = await opened.directory.locate(ADA)
            await opened.directory.relocate(present.mailbox_id, expected=present.register, home=old.home)

    trio.run(fall_back)
    for more in ((), ("--instance", cli.ok("mailbox", "list", "--disconnected", "--json").json[0]["instance"])):
        refused = cli("mailbox", "connect", ADA, *more)
        assert (refused.code, "was moved to DB2" in refused.err) == (common.REFUSED, True), refused


def test_a_removed_mailbox_may_get_another_address(cli: Here) -> None:
    cli.ok("mailbox", "alias", ADA, "countess@example.org")
    instance = cli.ok("mailbox", "remove", ADA, "--json").json["instance"]
    assert (
        "bob@example.org is back in DB1" in cli.ok("mailbox", "connect", "bob@example.org", "--instance", instance).out
    )
    shown = cli.ok("mailbox", "show", "bob@example.org", "--json").json
    assert (shown["instance"], shown["aliases"], shown["settings"]) == (instance, [], {})


CONNECTING: list[tuple[type, str]] = [
    (StoreEndpoint, "keep"),
    (SqliteDirectory, "add_recipient"),
    (SqliteDirectory, "add_alias"),
    (StoreEndpoint, "connect"),
]


@pytest.mark.parametrize("address", [ADA, "bob@example.org"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(len(CONNECTING)))
def test_connecting_that_was_cut_short_goes_on(
    cli: Here, monkeypatch: pytest.MonkeyPatch, step: int, after: bool, address: str
) -> None:
    cli.ok("mailbox", "alias", ADA, "countess@example.org")
    cli.ok("deliver", ADA, stdin=MESSAGE)
    gone = cli.ok("mailbox", "remove", ADA, "--force", "--retention", "0s", "--json").json
    where, verb = CONNECTING[step]
    write = getattr(where, verb)

    async def killed(*words: object, **more: object) -> None:
        if after:
            await write(*words, **more)
        raise KeyboardInterrupt

    command = ("mailbox", "connect", address, "--instance", gone["instance"])
    with monkeypatch.context() as at_that:
        at_that.setattr(where, verb, killed)
        code = cli(*command).code
    is_asked = verb != "add_alias" or address == ADA
    assert code == (common.INTERRUPTED if is_asked else common.OK)
    is_back = cli("mailbox", "show", address).code == common.OK
    assert is_back == (not is_asked or (verb, after) == ("connect", True))
    begun = step > 0 or after
    purged = cli.ok("store", "maintain", "DB1", "--json").json["mailboxes_purged"]
    assert purged == (0 if begun else 1)
    if not begun:
        assert cli(*command).code == common.NOT_FOUND
        return
    assert len(cli.ok("mailbox", "list", "--disconnected", "--json").json) == (0 if is_back else 1)
    if not is_back:
        cli.ok(*command)
    shown = cli.ok("mailbox", "show", address, "--json").json
    assert (shown["items"], shown["guard"], shown["settings"]) == (1, "open", {})
    assert shown["aliases"] == (["countess@example.org"] if address == ADA else [])
    cli.ok("deliver", address, stdin=MESSAGE + b"again\r\n")
    cli.ok("move", "new", address, "--to", "DB2", "--wait")
    assert cli.ok("store", "check", "DB1", "--json").json["ok"]


def test_what_a_move_that_was_removed_in_its_soak_has_left_is_soft_deleted_by_name(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    assert cli("mailbox", "remove", ADA, "--old").code == common.NOT_FOUND
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    refused = cli("mailbox", "remove", ADA, "--old")
    assert (refused.code, "moverq move explain" in refused.err) == (common.REFUSED, True)
    assert cli.ok("mailbox", "list", "--disconnected", "--json").json == []
    cli.ok("move", "remove", ADA, "--force", "--wait")
    (old,) = cli.ok("mailbox", "list", "--disconnected", "--json").json
    assert (old["address"], old["database"], old["moved_to"], old["kept_until"]) == (ADA, "DB1", "DB2", None)
    assert cli("mailbox", "connect", ADA).code == common.REFUSED
    (gone,) = cli.ok("mailbox", "remove", ADA, "--old", "--retention", "0s", "--json").json
    assert (gone["address"], gone["database"], gone["instance"], gone["items"]) == (ADA, "DB1", old["instance"], 1)
    assert cli("mailbox", "remove", ADA, "--old").code == common.NOT_FOUND
    assert cli.ok("store", "maintain", "DB1", "--json").json["mailboxes_purged"] == 1
    assert cli.ok("mailbox", "list", "--disconnected", "--json").json == []
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert (shown["database"], shown["items"], shown["guard"]) == ("DB2", 1, "open")
    cli.ok("move", "new", ADA, "--to", "DB1", "--wait")


def test_a_mailbox_in_a_mail_system_is_only_forgotten(cli: Here, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    mailbox.Maildir(tmp_path / "old" / "bob@example.org").add(MESSAGE)
    cli.ok("database", "add", "MAIL", "--server", "EX1", "--path", f"maildir:{tmp_path}/old/%u")
    cli.ok("mailbox", "add", "bob@example.org", "--database", "MAIL")
    assert any((cli.root / "mirrors" / "MAIL").glob("*.sqlite"))
    assert "what is in MAIL stays as it is" in cli.ok("mailbox", "remove", "bob@example.org").out
    assert not any((cli.root / "mirrors" / "MAIL").glob("*.sqlite"))
    assert len(mailbox.Maildir(tmp_path / "old" / "bob@example.org")) == 1
    refused = cli("mailbox", "connect", "bob@example.org")
    assert (refused.code, "moverq mailbox add" in refused.err) == (common.NOT_FOUND, True)
    for words in (("list", "--disconnected"), ("connect", "bob@example.org")):
        refused = cli("mailbox", *words, "--database", "MAIL")
        assert (refused.code, "MAIL is" in refused.err) == (common.REFUSED, True), refused
    cli.ok("mailbox", "add", "bob@example.org", "--database", "MAIL")
    assert cli.ok("mailbox", "show", "bob@example.org", "--json").json["items"] == 1


# ---- lists, help, the store


def test_servers_and_databases_are_listed(cli: Here) -> None:
    assert [one["name"] for one in cli.ok("server", "list", "--json").json] == ["EX1", "EX2"]
    assert [one["name"] for one in cli.ok("database", "list", "--json").json] == ["DB1", "DB2"]
    assert "EX1" in cli.ok("server", "list").out
    assert "DB2" in cli.ok("database", "list").out
    assert cli.ok("mailbox", "list", "--database", "DB2", "--json").json == []


@pytest.mark.parametrize("verb", ["check", "rebuild", "header", "checkpoint", "maintain"])
def test_a_mail_system_is_none_of_our_databases(cli: Here, tmp_path: Path, verb: str) -> None:
    cli.ok("database", "add", "MAIL", "--server", "EX1", "--path", f"maildir:{tmp_path}/old/%u")
    answer = cli("store", verb, "MAIL")
    assert (answer.code, answer.out) == (common.REFUSED, "")
    assert "MAIL is a place of Maildirs, and none of our databases" in answer.err


def test_a_database_is_looked_into_and_kept_in_order(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    header = cli.ok("store", "header", "DB1", "--json").json
    assert (header["mailboxes"], header["items"], header["bytes"]) == (1, 1, len(MESSAGE))
    assert [one["known_to"] for one in header["instances"]] == [f"home of {ADA}"]
    by_path = cli.ok("store", "check", str(cli.root / "databases" / "DB1"), "--json").json
    assert by_path["signature"] == header["signature"]
    assert cli.ok("store", "checkpoint", "DB1").out
    assert cli.ok("store", "maintain", "DB1", "--json").json["purged"] == 0


@pytest.mark.parametrize("name", [name for name, _, _ in GROUPS])
def test_every_group_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert "Usage: moverq" in capsys.readouterr().out


def test_the_root_may_stand_before_the_verb(cli: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([f"--root={cli.root}", "mailbox", "list"]) == 0
    assert run(["--root", str(cli.root), "mailbox", "list"]) == 0
    assert capsys.readouterr().out.count(ADA) == 2


@pytest.mark.parametrize(("text", "wanted"), [("90", 90), ("15m", 900), ("2h", 7200), ("14d", 1_209_600), ("0s", 0)])
def test_durations(text: str, wanted: float) -> None:
    assert common.seconds(text) == wanted


def test_dates() -> None:
    assert common.date_ms("2026-12-24T03:00+01:00") == 1_798_077_600_000
    assert common.date_ms("+1h") - common.date_ms("+0s") == pytest.approx(3_600_000, abs=1000)


def test_a_database_is_checked_and_what_is_wrong_is_named(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    whole = cli.ok("store", "check", "DB1", "--json").json
    assert (whole["ok"], whole["items"], whole["problems"]) == (True, 1, [])
    (segment,) = (cli.root / "databases" / "DB1" / "content").glob("*.seg")
    damaged = bytearray(segment.read_bytes())
    damaged[damaged.index(b"how are you")] ^= 1
    segment.write_bytes(damaged)
    answer = cli("store", "check", "DB1", "--json")
    assert answer.code == common.FAILED
    assert not answer.json["ok"]
    assert segment.name in answer.json["problems"][0]


def test_a_lost_catalogue_is_rebuilt_from_the_log(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    before = cli.ok("mailbox", "show", ADA, "--json").json
    for path in (cli.root / "databases" / "DB1").glob("catalogue.sqlite*"):
        path.unlink()
    answer = cli("mailbox", "show", ADA)
    assert answer.code == common.BROKEN
    assert "moverq store rebuild" in answer.err
    assert cli.ok("store", "rebuild", "DB1", "--json").json["unknown"] == []
    assert cli.ok("mailbox", "show", ADA, "--json").json == before


def test_a_lost_log_is_made_up_for_as_far_as_content_tells_and_the_rest_is_named(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    database = cli.root / "databases" / "DB1"
    for path in [*database.glob("catalogue.sqlite*"), *(database / "log").iterdir()]:
        path.unlink()
    assert cli("store", "rebuild", "DB1").code == common.BROKEN
    rebuilt = cli.ok("store", "rebuild", "DB1", "--from-content", "--json").json
    assert rebuilt["opened"] == [ADA]
    assert any("delivery keys" in one for one in rebuilt["unknown"])
    shown = cli.ok("mailbox", "show", ADA, "--json").json
    assert (shown["guard"], shown["items"], shown["bytes"]) == ("open", 1, len(MESSAGE))


def lose_log(cli: Here, name: str) -> Path:
    database = cli.root / "databases" / name
    for path in [*database.glob("catalogue.sqlite*"), *(database / "log").iterdir()]:
        path.unlink()
    return database


def test_a_rebuild_from_content_by_path_opens_what_one_by_name_does(cli: Here) -> None:
    """And makes again what had no item."""
    cli.ok("deliver", ADA, stdin=MESSAGE)
    cli.ok("mailbox", "add", "eve@example.org", "--database", "DB1")
    path = lose_log(cli, "DB1")
    rebuilt = cli.ok("store", "rebuild", f"{path}/", "--from-content", "--json").json
    assert (rebuilt["opened"], rebuilt["made"], rebuilt["held"]) == ([ADA], ["eve@example.org"], [])
    for address in (ADA, "eve@example.org"):
        cli.ok("deliver", address, stdin=MESSAGE.replace(b"hello", b"again"))
    by_name, by_path = (cli.ok("store", "header", one, "--json").json for one in ("DB1", str(path)))
    assert by_path["instances"] == by_name["instances"]
    assert {one["known_to"] for one in by_path["instances"]} == {f"home of {ADA}", "home of eve@example.org"}


def test_a_mailbox_whose_move_soaks_is_opened_after_a_rebuild_from_content(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    lose_log(cli, "DB2")
    assert cli.ok("store", "rebuild", "DB2", "--from-content", "--json").json["opened"] == [ADA]
    cli.ok("deliver", ADA, stdin=MESSAGE.replace(b"hello", b"again"))
    cli.ok("move", "complete", ADA)
    cli.ok("worker", "--drain", "--processes", "1")
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 2
    cli.ok("deliver", ADA, stdin=MESSAGE.replace(b"hello", b"and again"))


def test_a_mailbox_that_a_move_has_in_hand_stays_locked_after_a_rebuild_from_content(cli: Here) -> None:
    cli.ok("mailbox", "add", "eve@example.org", "--database", "DB1")
    cli.ok("deliver", ADA, stdin=MESSAGE)
    for address in (ADA, "eve@example.org"):
        cli.ok("move", "new", address, "--to", "DB2")
    lose_log(cli, "DB1")
    rebuilt = cli.ok("store", "rebuild", "DB1", "--from-content", "--json").json
    assert rebuilt["held"] == [ADA, "eve@example.org"]
    assert rebuilt["made"] == ["eve@example.org"]
    for address in rebuilt["held"]:
        assert cli.ok("mailbox", "show", address, "--json").json["guard"] == "locked"


def test_a_database_whose_making_was_cut_short_is_added(cli: Here) -> None:
    server = cli.ok("database", "list", "--json").json[0]["server"]
    (cli.root / "databases" / "DB3" / "log").mkdir(parents=True)
    cli.ok("database", "add", "DB3", "--server", server)
    cli.ok("mailbox", "add", "eve@example.org", "--database", "DB3")


def test_a_database_is_made_in_no_folder_with_other_files(cli: Here, tmp_path: Path) -> None:
    words = ("database", "add", "DB3", "--server", "EX1", "--path", str(tmp_path / "home"))
    (tmp_path / "home" / "lost+found").mkdir(parents=True)
    (tmp_path / "home" / "letter.txt").write_text("dear all")
    answer = cli(*words)
    assert (answer.code, "holds other files, as letter.txt" in answer.err) == (common.REFUSED, True)
    assert sorted(one.name for one in (tmp_path / "home").iterdir()) == ["letter.txt", "lost+found"]
    assert len(cli.ok("database", "list", "--json").json) == 2
    (tmp_path / "home" / "letter.txt").unlink()
    cli.ok(*words)


def test_a_folder_is_one_database(cli: Here, tmp_path: Path) -> None:
    server = cli.ok("database", "list", "--json").json[0]["server"]
    cli.ok("database", "add", "DB3", "--server", server, "--path", str(tmp_path / "x"))
    (tmp_path / "link").symlink_to(tmp_path / "x")
    for path in (tmp_path / "x", tmp_path / "link"):
        answer = cli("database", "add", "DB4", "--server", server, "--path", str(path))
        assert answer.code != 0
        assert "DB3 is at" in answer.err


def test_a_database_is_removed_when_nothing_needs_it_and_its_files_stay(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    for words, said in ((("database", "DB1"), "the mailbox of ada@"), (("server", "EX1"), "the database DB1")):
        answer = cli(words[0], "remove", words[1])
        assert (answer.code, answer.out) == (common.REFUSED, "")
        assert said in answer.err
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    for database, option in (("DB1", "--from"), ("DB2", "--to")):
        answer = cli("database", "remove", database)
        assert answer.code == common.REFUSED
        assert (
            "mailbox of" in answer.err if database == "DB2" else f"moverq move list {option} {database}" in answer.err
        )
    cli.ok("move", "remove", ADA, "--force", "--wait")
    answer = cli("database", "remove", "DB1")
    assert (answer.code, "DB1 holds 1 old mailbox," in answer.err) == (common.REFUSED, True)
    folder = cli.root / "databases" / "DB1"
    assert f"what is in {folder} stays" in cli.ok("database", "remove", "DB1", "--force").out
    cli.ok("server", "remove", "EX1")
    assert [one["name"] for one in cli.ok("database", "list", "--json").json] == ["DB2"]
    cli.ok("database", "add", "OLD", "--server", "EX2", "--path", str(folder))
    assert cli.ok("store", "header", "OLD", "--json").json["items"] == 1


def test_a_database_that_somebody_has_open_or_that_is_lost_is_removed_or_not(cli: Here) -> None:
    cli.ok("database", "add", "DB3", "--server", "EX1")

    async def while_open() -> None:
        async with open_root(cli.root) as opened:
            await opened.store("DB3")
            answer = await trio.to_thread.run_sync(There(cli.root), "database", "remove", "DB3")
            assert (answer.code, "stop workers" in answer.err) == (common.TEMPORARY, True)

    trio.run(while_open)
    shutil.rmtree(cli.root / "databases" / "DB3")
    cli.ok("database", "remove", "DB3")
    assert cli("database", "remove", "DB3").code == common.NOT_FOUND


def test_a_database_whose_files_were_moved_is_found_at_their_new_place(cli: Here, tmp_path: Path) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    old, new = cli.root / "databases" / "DB1", tmp_path / "disk2" / "DB1"
    other = cli.root / "databases" / "DB2"
    cli.ok("database", "add", "DB3", "--server", "EX1", "--path", str(tmp_path / "DB3"))
    cli.ok("database", "remove", "DB3")

    def refused(name: str, path: Path | str, code: int, said: str) -> None:
        answer = cli("database", "set", name, "--path", str(path))
        assert (answer.code, answer.out, said in answer.err) == (code, "", True), answer

    before = cli.ok("database", "list").out
    refused("DB9", new, common.NOT_FOUND, "no database DB9")
    refused("DB1", other, common.REFUSED, f"the database DB2 is at {other} already")
    refused("DB1", "imap://mail.example.org", common.REFUSED, "a mail system is another database")
    refused("DB1", new, common.REFUSED, f"there is a database at {old} still")
    new.parent.mkdir()
    old.rename(new)
    old.mkdir()
    refused("DB1", tmp_path / "nothing", common.BROKEN, "nothing")
    refused("DB1", tmp_path / "DB3", common.REFUSED, f"is not DB1: the mailbox of {ADA} is not in it")
    assert cli.ok("database", "list").out == before

    async def while_open() -> None:
        async with open_endpoint("DB1", new):
            answer = await trio.to_thread.run_sync(There(cli.root), "database", "set", "DB1", "--path", str(new))
            assert answer.code == common.TEMPORARY

    trio.run(while_open)
    assert cli.ok("database", "set", "DB1", "--path", str(new)).out == f"database DB1 on EX1, in {new}\n"
    cli.ok("database", "set", "DB1", "--path", str(new))
    cli.ok("move", "new", ADA, "--to", "DB2", "--wait")
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 1
    old.rmdir()
    new.rename(old)
    cli.ok("database", "set", "DB1", "--path", str(old))
    cli.ok("move", "rollback", ADA, "--wait")
    other.rename(new)
    cli.ok("database", "set", "DB2", "--path", str(new))  # with an old mailbox, which its soak needs
    cli.ok("database", "add", "DB3", "--server", "EX1")
    (cli.root / "databases" / "DB3").rename(other)
    refused("DB3", other, common.REFUSED, "nobody is at home in DB3")


def test_a_mail_system_is_removed_with_nothing_but_its_name(cli: Here, tmp_path: Path) -> None:
    cli.ok("database", "add", "MAIL", "--server", "EX1", "--path", f"maildir:{tmp_path}/old/%u")
    assert f"maildir:{tmp_path}/old/%u stays" in cli.ok("database", "remove", "MAIL").out


def test_a_database_in_use_is_not_rebuilt(cli: Here) -> None:
    async def use() -> None:
        async with open_root(cli.root) as root:
            await root.store("DB1")
            with pytest.raises(EndpointUnavailable, match="in use"):
                async with open_root(cli.root) as other:
                    await other.store_rebuild("DB1")

    trio.run(use)


# ---- damage, and terminals


def damage(root: Path, pattern: str, at: bytes) -> Path:
    """One bit, in the first file of DB1 that fits."""
    path = sorted((root / "databases" / "DB1").glob(pattern))[0]
    raw = bytearray(path.read_bytes())
    raw[raw.index(at)] ^= 1
    path.write_bytes(raw)
    return path


def test_a_damaged_item_stops_a_move_until_an_operator_leaves_it_behind(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    cli.ok("deliver", ADA, stdin=MESSAGE.replace(b"how are", b"who are"))
    damage(cli.root, "content/*.seg", b"who are")
    answer = cli("move", "new", ADA, "--to", "DB2", "--wait")
    assert answer.code == common.FAILED
    assert "1 bad item, and the request allows 0" in answer.err
    failed = cli.ok("move", "show", ADA, "--json").json
    assert (failed["status"], failed["status_detail"]) == ("Failed", "FailedBadItemLimit")
    assert cli.ok("mailbox", "show", ADA, "--json").json["guard"] == "open"
    cli.ok("move", "resume", ADA, "--bad-item-limit", "1", "--wait")
    done = cli.ok("move", "show", ADA, "--json").json
    assert (done["status"], done["bad_items_encountered"]) == ("CompletedWithWarning", 1)
    assert len(cli.ok("move", "report", ADA, "--json").json["report"]["bad_items"]) == 1
    (kept,) = (path for path in (cli.root / "quarantine" / done["request_id"]).iterdir() if path.is_file())
    assert b"vho are" in kept.read_bytes()
    assert cli.ok("mailbox", "show", ADA, "--json").json["items"] == 1


def test_a_damaged_log_is_named_with_file_and_place(cli: Here) -> None:
    for number in range(3):
        cli.ok("deliver", ADA, stdin=MESSAGE + b"%d" % number)
    path = sorted((cli.root / "databases" / "DB1" / "log").glob("*.log"))[0]
    raw = bytearray(path.read_bytes())
    raw[1024 + 200] ^= 1
    path.write_bytes(raw)
    answer = cli("store", "check", "DB1", "--json")
    assert answer.code == common.FAILED
    assert any(path.name in problem for problem in answer.json["problems"])
    for catalogue in (cli.root / "databases" / "DB1").glob("catalogue.sqlite*"):
        catalogue.unlink()
    answer = cli("store", "rebuild", "DB1")
    assert answer.code == common.BROKEN
    assert path.name in answer.err


def test_a_cut_log_is_no_database_to_go_on_with(cli: Here) -> None:
    cli.ok("deliver", ADA, stdin=MESSAGE)
    path = sorted((cli.root / "databases" / "DB1" / "log").glob("*.log"))[0]
    os.truncate(path, 700)
    answer = cli("deliver", ADA, stdin=MESSAGE + b"more")
    assert answer.code == common.TEMPORARY
    assert path.name in answer.err
    assert cli("mailbox", "show", ADA).code == common.BROKEN


def test_on_a_terminal_progress_is_a_table(cli: Here) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with redirect_stderr(terminal):
        assert run(["move", "new", ADA, "--to", "DB2", "--wait", "--root", str(cli.root)]) == 0
        assert run(["worker", "--drain", "--processes", "1", "--root", str(cli.root)]) == 0
    assert "stage" in terminal.getvalue()
    assert "status=Completed" in terminal.getvalue()


def test_a_narrow_terminal_shows_fewer_columns_and_those_whole(cli: Here) -> None:
    row = {
        "mailbox": ADA, "to": "DB2", "stage": "CopyingMessages", BAR: " " * 16, "items": "300/3,000",
        "bytes": "2.1 MiB", "rate": "11.4 MiB/s", "ETA": "7 s", "backlog": "", "lock": "~20 ms",
    }  # fmt: skip
    assert fitting([row], 200) == list(COLUMNS)
    assert fitting([row], 80) == ["mailbox", "to", "stage", BAR, "items", "ETA", "lock"]
    assert fitting([row], 40) == fitting([row], 1) == ["mailbox", "stage"]
    assert fitting([], 80)
