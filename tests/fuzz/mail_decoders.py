"""The decoders of mail files: mbox, .eml, Maildir names and side files, the index of an export, and any file at all.

Nothing here is refused by an error: mail comes out as it is, and what is no mail is said to be none. So the judge asks
whether a mailbox could take what came out.
"""

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from moverq.mailfiles import MailItem, NotMail, read_mail
from moverq.mailfiles.eml import eml_item, read_indexed
from moverq.mailfiles.files import read_lists
from moverq.mailfiles.maildir import (
    _read_keywords,
    _true_path,
    as_mail,
    base_name,
    flags_of,
    mail_size,
    subfolder_names,
)
from moverq.mailfiles.mbox import FOLDERS_FILE, _has_crlf, _messages, folder_name, is_mbox
from moverq.mailfiles.names import decode_name, encode_utf7, safe_name
from moverq.mailfiles.text import from_line_ms, header_ms, looks_like_mail, status_flags
from tests.fuzz.decoder import REFUSED, TAKEN, Decoder, buffered, place_in_memory

HEADER = (
    b"Received: from a by b; Tue, 14 Nov 2023 22:13:20 +0100\r\n\t(folded)\r\nDate: 14 Nov 2023 22:13:20 GMT\r\n"
    b"Status: RO\r\nX-Status: AFD\r\nSubject: hello\r\n"
)
MAIL = HEADER + b"\r\nbody\r\n>From quoted\r\n"
MBOX = (
    b"From a@b Tue Nov 14 22:13:20 2023\n" + MAIL.replace(b"\r", b"") + b"\nFrom MAILER-DAEMON Tue Nov 14 2:3 EST 2023"
    b" +0100\nDate: x\n\ntext\n\nFrom - Tue Nov 14 22:13:20 2023\nSubject: three\n\n\n"
)


def check(found: Iterable[MailItem | NotMail]) -> str:
    """Each message is one that a mailbox takes, or refuses in words; each of the rest says why it is none."""
    outcome = REFUSED
    for one in found:
        if isinstance(one, NotMail):
            assert one.path
            assert one.why
            continue
        outcome = TAKEN
        assert one.folder
        assert all(isinstance(name, str) for name in (*one.folder, *one.keywords))
        assert -(1 << 63) <= one.received_ms < 1 << 63, one.received_ms
        assert 0 <= one.flags < 1 << 32
    return outcome


@cache
def folder() -> Path:
    return place_in_memory()


def written(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


def judge_mbox(data: bytes) -> str:
    for exact in (True, False):
        found = list(_messages(buffered(data), Path("a.mbox"), ("A",), 1, exact=exact))
        outcome = check(found)
        contents = sum(len(one.content) for one in found if isinstance(one, MailItem))
        assert contents <= 2 * len(data)
    _has_crlf(buffered(data))
    is_mbox(data)
    return outcome


def judge_eml(data: bytes) -> str:
    """A file called .eml is a message, unless it is binary: whatever it holds, it becomes an item."""
    outcome = check([eml_item(Path("1.eml"), data, mtime_ms=1, folder=("A",), flags=0, keywords=())])
    return outcome if looks_like_mail(data) else REFUSED


def judge_text(data: bytes) -> str:
    """What is looked for in a head: dates and flags, each by itself, so that none hides the next."""
    for date in (from_line_ms(data), header_ms(data), header_ms(b"Date:" + data + b"\n"), header_ms(HEADER + data)):
        assert date is None or -(1 << 63) <= date < 1 << 63, date
    assert 0 <= status_flags(data) < 32
    assert 0 <= status_flags(b"Status:" + data) < 32
    as_mail(data, f"1,W={len(data)}")
    return TAKEN if looks_like_mail(data) else REFUSED


def judge_index(data: bytes) -> str:
    written("1.eml", MAIL)
    written("index.jsonl", data)
    return check(read_indexed(folder(), ("above",), set(), root=folder().resolve()))


def judge_name(data: bytes) -> str:
    """A name that the file system may give: up to 255 bytes, NUL and slash not among them."""
    name = data.replace(b"\0", b"").replace(b"/", b"")[:255].decode("utf-8", "surrogateescape")
    flags, words = flags_of(name, {"a": "$Work"})
    assert 0 <= flags < 32
    assert base_name(name) in name or words is not None
    size = mail_size(name)
    assert size is None or size >= 0
    for said in (decode_name(name), folder_name(name), *(subfolder_names(name) or ())):
        said.encode()  # text, and no half of it
        taken: set[str] = set()
        safe = [safe_name(said, taken, ending=".eml") for _ in range(2)]
        assert len({*safe, ""}) == 3
        assert all(len(one.encode()) <= 255 and "/" not in one and one[0] != "." for one in safe)
        assert decode_name(encode_utf7(said)) == said or not said.isprintable() or "&" in said
    return TAKEN if words or flags else REFUSED


def judge_side_files(data: bytes) -> str:
    """Side files say something, or nothing."""
    keywords = _read_keywords(written("dovecot-keywords", data), folder().resolve())
    assert all(len(letter) == 1 and name for letter, name in keywords.items())
    lists = read_lists(written("moverq-keywords.jsonl", data), "keywords", root=folder().resolve())
    assert all(isinstance(word, str) for words in lists.values() for word in words)
    written("moverq-folder.json", data)
    path = _true_path(folder(), folder().resolve())
    assert path is None or all(isinstance(name, str) for name in path)
    return TAKEN if keywords or lists or path else REFUSED


def judge_any_file(data: bytes) -> str:
    """As an import comes to it, knowing nothing: in a folder, beside the side file that names it."""
    top = folder() / "any"
    top.mkdir(exist_ok=True)
    (top / "file").write_bytes(data)
    (top / FOLDERS_FILE).write_bytes(data)
    return check(read_mail(top))


def index_line(**changed: object) -> bytes:
    said = {
        "file": "1.eml", "folder": ["A", "B"], "received_ms": 1, "flags": ["Seen"], "keywords": ["k"],
        "sha256": "0" * 64, "bytes": len(MAIL), **changed,
    }  # fmt: skip
    return json.dumps(said).encode() + b"\n"


def made(name: str, judge: Callable[[bytes], str], *seeds: bytes) -> Decoder:
    return Decoder(name, judge, seeds)


DECODERS = (
    made("mbox", judge_mbox, MBOX, MBOX.replace(b"\n", b"\r\n"), b"From -\nA: b\n\n\nFrom -\nC: d\n\n"),
    made("eml", judge_eml, MAIL, b"From x\n" + MAIL.replace(b"\r", b""), b"Subject: only\n"),
    made("text", judge_text, HEADER, b"Tue Nov 14 22:13:20 GMT 2023 +0100", b" Tue, 14 Nov 2023 22:13:20 -0700 (x)\n"),
    made("index", judge_index, index_line() * 2, index_line(received_ms=1e3, flags=[], file="../x"), b"{}\n"),
    made(
        "maildir-name", judge_name, b"1700000000.M1.host,S=5,W=6:2,FRSa", b".A.&AOk-t&AOk-", b"INBOX.mbox",
        "Entwürfe.mbx".encode(),
    ),
    made(
        "side-files", judge_side_files, b"0 $Work\n1 Later\n", b'{"file": "a", "keywords": ["b"]}\n',
        json.dumps({"name": "x", "path": ["A", "B"]}).encode(),
    ),
    made("any-file", judge_any_file, MAIL, MBOX, b'{"file": "file", "path": ["A"]}\n', b"\x7fELF\0"),
)  # fmt: skip
