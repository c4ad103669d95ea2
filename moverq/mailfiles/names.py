"""Folder names and file names: what a file system takes, and the way back.

A folder may be called anything: `a/b`, `.`, three hundred letters, or as its neighbour but for case. Its file gets a
name that any file system takes and a person can read; where that name does not say all, the true one stands beside it
(a line in the writer's own side file). Escapes inside the name were tried and given up: a reader would find them in
names of other programs that only look so.
"""

import base64
import re
import unicodedata

NAME_BYTES_MAX = 180
"""Below the 255 bytes of a file name, with room for endings."""
RESERVED = frozenset({"cur", "new", "tmp", "index.jsonl", "index.jsonl.unfinished", "folders.jsonl"})
"""Names that mean something to a reader."""
UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udfff]')
SHIFTED = re.compile(rb"&([^-&]*)-")
TO_SHIFT = re.compile(r"&|[^\x20-\x7e]+")


def safe_name(name: str, taken: set[str], *, ending: str = "") -> str:
    """A file name for `name` plus `ending`, unlike all in `taken` even without case; it is added there."""
    text = UNSAFE.sub("_", name)
    if text[:1] in ("", ".", " "):
        text = "_" + text[1:]
    if text[-1] in ". ":
        text = text[:-1] + "_"
    if text.casefold() in RESERVED:
        text += "_"
    return unique(text, taken, ending=ending)


def unique(text: str, taken: set[str], *, ending: str = "") -> str:
    """`text`, cut to size and numbered where needed, plus `ending`."""
    text = text.encode()[:NAME_BYTES_MAX].decode(errors="ignore")
    number = 1
    while True:
        found = (f"{text}~{number}" if number > 1 else text) + ending
        key = unicodedata.normalize("NFC", found).casefold()
        if key not in taken:
            taken.add(key)
            return found
        number += 1


def decode_name(raw: str) -> str:
    """A folder's name from a file system: modified UTF-7 (RFC 3501 §5.1.3) where it is that, else as it stands."""
    if raw.isascii() and "&" in raw:
        try:
            name = SHIFTED.sub(_unshift, raw.encode()).decode("utf-8")
        except ValueError:
            return raw
        return name if encode_utf7(name) == raw else raw
    return raw.encode(errors="surrogateescape").decode(errors="backslashreplace")


def encode_utf7(name: str) -> str:
    """Modified UTF-7, as IMAP and Maildir++ name folders."""
    return TO_SHIFT.sub(_shift, name)


def _shift(match: re.Match[str]) -> str:
    if match.group() == "&":
        return "&-"
    coded = base64.b64encode(match.group().encode("utf-16-be", "surrogatepass"))
    return f"&{coded.rstrip(b'=').replace(b'/', b',').decode()}-"


def _unshift(match: re.Match[bytes]) -> bytes:
    coded = match.group(1).replace(b",", b"/")
    if not coded:
        return b"&"
    return base64.b64decode(coded + b"=" * (-len(coded) % 4), validate=True).decode("utf-16-be").encode()
