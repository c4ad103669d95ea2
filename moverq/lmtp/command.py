"""What a client's line says: RFC 5321's commands as LMTP has them, with the parameters that we advertise.

Pure: a line in, a `Command` out, or a `Refusal` with the reply that it deserves. Liberal where clients differ (case, a
space behind the colon, source routes, which are left out as RFC 5321 §4.1.1.3 has it), strict where a mistake would
become somebody's mail: a parameter that we did not offer is refused, and so is an address that is no path.
"""

import re
from typing import NoReturn

import attrs

from moverq.lmtp.reply import Reply

VERBS = ("LHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY")
_PATH = re.compile(r"\s*<(?:@[^:<>]*:)?((?:\"(?:[^\"\\]|\\.)*\"|[^<>\"\s])*)>(?:\s+(.*))?")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"(@.*)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class Refusal(Exception):
    """The client's line is answered with `reply`, and has no other effect."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@attrs.frozen(kw_only=True)
class Command:
    """A line understood. Which fields mean something depends on `verb`."""

    verb: str
    address: str = ""
    """MAIL: the sender as it was written, empty for a bounce. RCPT: the recipient, its quotes taken off."""
    size: int | None = None
    """MAIL: the bytes that the client declares (RFC 1870)."""
    utf8: bool = False
    """MAIL: with SMTPUTF8 (RFC 6531)."""


def parse_command(line: bytes, *, utf8: bool = False) -> Command:
    """The command that this line (without its end) is. `utf8`: the transaction's MAIL asked for SMTPUTF8.

    Raises: `Refusal`.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        _refuse(500, "5.5.2", "that is neither ASCII nor UTF-8")
    if _CONTROLS.search(text):
        _refuse(500, "5.5.2", "a command has no control characters")
    word, _, rest = text.strip(" ").partition(" ")
    verb = word.upper()
    match verb:
        case "MAIL":
            return _mail(_after(rest, "FROM:", "MAIL FROM:<address>"))
        case "RCPT":
            return _rcpt(_after(rest, "TO:", "RCPT TO:<address>"), utf8=utf8)
        case "LHLO" if not rest.strip():
            _refuse(501, "5.5.4", "say LHLO and your name")
        case "DATA" | "RSET" | "QUIT" if rest.strip():
            _refuse(501, "5.5.4", f"{verb} stands alone")
        case "HELO" | "EHLO":
            _refuse(500, "5.5.1", "this is LMTP: say LHLO")
        case _ if verb in VERBS:
            return Command(verb=verb, address=rest.strip())
        case _:
            _refuse(500, "5.5.1", "unknown command")


def _after(rest: str, keyword: str, form: str) -> str:
    if not rest.lstrip().upper().startswith(keyword):
        _refuse(501, "5.5.4", f"say {form}")
    return rest.lstrip()[len(keyword) :]


def _mail(text: str) -> Command:
    sender, parameters = _path(text)
    size: int | None = None
    utf8 = False
    for name, value in parameters:
        match name:
            case "SIZE" if value.isascii() and value.isdigit() and len(value) <= 20:
                size = int(value)
            case "BODY" if value.upper() in ("7BIT", "8BITMIME"):
                pass  # the bytes are kept as they are, whatever they are
            case "SMTPUTF8" if not value:
                utf8 = True
            case _:
                _refuse(555, "5.5.4", f"unknown parameter {name}" + (f"={value}" if value else ""))
    _check_ascii(sender, utf8=utf8)
    return Command(verb="MAIL", address=sender, size=size, utf8=utf8)


def _rcpt(text: str, *, utf8: bool) -> Command:
    address, parameters = _path(text)
    if parameters:
        _refuse(555, "5.5.4", f"unknown parameter {parameters[0][0]}")
    if not address:
        _refuse(501, "5.1.3", "a recipient has an address")
    _check_ascii(address, utf8=utf8)
    if quoted := _QUOTED.fullmatch(address):
        address = re.sub(r"\\(.)", r"\1", quoted[1]) + quoted[2]
    return Command(verb="RCPT", address=address)


def _path(text: str) -> tuple[str, list[tuple[str, str]]]:
    found = _PATH.fullmatch(text.rstrip())
    if found is None:
        _refuse(501, "5.1.7", "an address stands in < and >")
    words = [word.partition("=") for word in (found[2] or "").split()]
    return found[1], [(name.upper(), value) for name, _, value in words]


def _check_ascii(address: str, *, utf8: bool) -> None:
    if not (utf8 or address.isascii()):
        _refuse(553, "5.6.7", "an address beyond ASCII needs SMTPUTF8")


def _refuse(code: int, enhanced: str, text: str) -> NoReturn:
    raise Refusal(Reply(code, enhanced, text))
