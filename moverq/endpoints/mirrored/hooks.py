"""Fencing a mailbox from outside: commands of the operator's that keep everybody else out, and let them in again.

IMAP itself has no lock, nor has a Maildir. Where a proxy, a database or an access list does, a command can use it, kick
the sessions that are open, and end when nobody is left. It is run for every lock and every release, also after a crash,
so it must do no harm when nothing is to be done.
"""

from collections.abc import Mapping, Sequence

import trio

from moverq.errors import EndpointUnavailable


async def run_hook(command: Sequence[str], *, user: str, endpoint: str) -> None:
    """The command ended well; `{user}` in its words is the mailbox's user.

    Cancelled: it was stopped, and may or may not have done its work.
    Raises:
        EndpointUnavailable: it could not be run or failed.
    """
    words = [fill(word, {"user": user}) for word in command]
    try:
        done = await trio.run_process(words, check=False, capture_stderr=True)
    except OSError as error:
        raise EndpointUnavailable(endpoint=endpoint, why=f"{words[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = bytes(done.stderr).decode("utf-8", "replace").strip().splitlines()
        why = f"{words[0]} failed with exit code {done.returncode}" + (f": {said[-1]}" if said else "")
        raise EndpointUnavailable(endpoint=endpoint, why=why)


def fill(template: str, values: Mapping[str, str]) -> str:
    """`{name}` replaced by its value, and nothing else of the text looked at."""
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template
