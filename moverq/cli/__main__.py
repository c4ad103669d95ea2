"""moverq on the command line: finds the verb, runs it, and says in an exit code how it went."""

import gc
import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from moverq.cli import common
from moverq.version import __version__

GROUPS = (
    ("init", "moverq.cli.init:init", "Make the folder of a new organisation."),
    (
        "server",
        "moverq.cli.server:app",
        "Servers: databases live on them; their versions decide which moves are online.",
    ),
    ("database", "moverq.cli.database:app", "Databases: mailboxes live in them."),
    (
        "directory",
        "moverq.cli.directory:app",
        "The directory: where it is kept, and the schema that an LDAP server needs.",
    ),
    ("mailbox", "moverq.cli.mailbox:app", "Mailboxes: add, look at, import to, export from, remove, bring back."),
    (
        "deliver",
        "moverq.cli.deliver:deliver",
        "Deliver one message from stdin; exits 75 while the mailbox is locked.\n\n"
        "The same message (sender, recipient and all bytes) is delivered once, however often this is called.",
    ),
    (
        "lmtp",
        "moverq.cli.lmtp:lmtp",
        "Take deliveries from an MTA by LMTP, until it is stopped.\n\n"
        "A recipient is answered with 250 after the message is on the disk, and with 451 while its mailbox is locked.",
    ),
    ("move", "moverq.cli.move:app", "Move requests: ask for them, look at them, hold them, take them back."),
    (
        "worker",
        "moverq.cli.worker:worker",
        "Run queued moves, until it is stopped.\n\n"
        "Several workers may run on one root. One that is stopped, or killed, loses nothing: the next goes on.",
    ),
    ("store", "moverq.cli.store:app", "Databases on the disk: check, rebuild, look into, keep in order."),
    (
        "demo",
        "moverq.cli.demo:demo",
        "Watch a mailbox being moved while it is in use, and taken back.\n\n"
        "Exits 1 if anything was lost, came twice, or differs.",
    ),
)
"""Name, what runs it (imported when it is called), and its line in the help."""


def make_app() -> App:
    app = App(
        name="moverq",
        version=f"moverq {__version__}",
        help="An online mailbox move engine: copy while the user works, lock for milliseconds, prove both sides "
        "equal, take it back if need be. The organisation's folder is --root, or MOVERQ_ROOT, or ./moverq-root.",
        help_format="plaintext",
        default_parameter=Parameter(negative=(), show_default=False),
        backend="trio",
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, path, text in GROUPS:
        app.command(path, name=name, help=text)
    return app


OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""A batch is some thousand tuples that live as long as it does, in no cycle. Python's 700 has each of them looked at
dozens of times: 7 % of a move's CPU."""


def main() -> None:
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    _allow_open_files()
    _open_streams()
    sys.exit(run(sys.argv[1:]))


def _allow_open_files() -> None:
    """As many as the system lets us have: the 1,024 that a shell gives are less than a hundred moves that wait between
    IMAP servers hold."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open_streams() -> None:
    """There is something to answer to and to read from, also where the shell closed it (`>&-`); and what the locale's
    encoding cannot say is said by its number, not by a traceback."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 (as long as the process)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(arguments: Sequence[str]) -> int:
    """The exit code of this command line."""
    words = _root_first(list(arguments))
    try:
        make_app()(words)
        sys.stdout.flush()
    except CycloptsError as error:
        common.say(f"moverq: {error}", f"See `moverq {' '.join(_verb(words))} --help`.".replace("  ", " "))
        return common.USAGE
    except BrokenPipeError:
        # Whoever read our answer has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return common.PIPE_CLOSED
    except common.Exit as done:
        return done.code
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:
        from moverq.cli.failing import failed

        return failed(error, words)
    return common.OK


def _root_first(words: list[str]) -> list[str]:
    """`--root` may also stand before the verb; it goes behind it."""
    moved: list[str] = []
    while words and (words[0] == "--root" or words[0].startswith("--root=")):
        many = 2 if words[0] == "--root" else 1
        moved, words = [*moved, *words[:many]], words[many:]
    return [*words, *moved]


def _verb(words: Sequence[str]) -> list[str]:
    """The words of the command line that name a verb there is, or its group."""
    names = {name for name, _, _ in GROUPS}
    groups = {name for name, path, _ in GROUPS if path.endswith(":app")}
    if not words or words[0] not in names:
        return []
    is_verb = words[0] in groups and len(words) > 1 and words[1] in make_app()[words[0]]
    return list(words[: 2 if is_verb else 1])


if __name__ == "__main__":
    main()
