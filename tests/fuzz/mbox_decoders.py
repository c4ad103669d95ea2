"""The decoders of the mbox endpoint: where messages begin, what is said of them, and what a crash left to be done.

Nothing of an mbox is refused: all of its bytes are in some message. A journal is taken whole or not at all.
"""

import attrs
import msgpack

from moverq.endpoints.mbox import message
from moverq.endpoints.mbox.appending import decode_announced
from moverq.endpoints.mbox.index import NOTHING, _pass, base_of, parted
from moverq.endpoints.mbox.message import Base, as_mail, as_stored, separator_ms, taken_apart, with_said
from moverq.endpoints.mbox.rewriting import Journal, _torn_bytes, decode_journal
from moverq.endpoints.mbox.splitting import split
from moverq.endpoints.mirrored.normal_form import content_hash
from tests.fuzz.decoder import REFUSED, TAKEN, Decoder

FROM = b"From a@b Tue Nov 14 22:13:20 2023 +0000\n"
FIRST = FROM + b"Subject: 1\nX-IMAPbase: 7 0000000003 work\nX-UID: 1\nStatus: RO\nX-Keywords: work  \n\ntext\n\n"
SECOND = FROM + b"Content-Length: 48\nX-Status: AFTD\n\n>From x\n" + FROM + b"X: y\n\n"
INTERNAL = FROM + b"X-IMAP: 7 0000000009 work\n\nnone\n\n"


def judge_mbox_file(data: bytes) -> str:
    """All of the file is in its messages, in order; an index has each of them once, and finds it again."""
    pieces = list(split(lambda at, size: data[at : at + size]))
    assert b"".join(piece.separator + piece.text for piece in pieces) == data
    assert [piece.begin for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    found = _pass(lambda at, size: data[at : at + size], NOTHING, None)
    uids = [entry.uid for entry in found.entries.values() if entry.uid]
    assert uids == sorted(set(uids))
    for base, entry in found.entries.items():
        assert 0 <= entry.flags < 32
        raw = data[entry.begin : entry.end]
        separator, text = parted(raw)
        mail = as_mail(taken_apart(text)[1])
        assert base.startswith(base_of(separator, mail))
        assert len(mail) == entry.size
    return TAKEN if found.entries else REFUSED


def judge_mbox_message(data: bytes) -> str:
    """What is stored comes back, byte by byte or in the normal form that is known for it; and is one message there."""
    ms = separator_ms(data)
    assert ms is None or -(1 << 63) <= ms < 1 << 63, ms
    text = with_said(as_stored(data), flags=31, keywords=("a", "b"), uid=9, base=Base(7, 3, ("a", "b")))
    said, bare = taken_apart(text)
    assert (said.flags, said.keywords, said.uid, said.base) == (31, ("a", "b"), 9, Base(7, 3, ("a", "b")))
    if len(data) < 4096:  # these are copies, and how much memory they take is judged too
        file = FROM + text + FROM
        assert [piece.text for piece in split(lambda at, size: file[at : at + size])] == [text, b""]
        again = with_said(text, flags=0, keywords=(), uid=1, base=Base(7, 3, ()), length=len(text))
        assert len(again) == len(text)
    del text
    back, form = as_mail(bare), message.normal_hash(data)
    del bare
    assert (back == data) if form is None else (content_hash(message.normal(back)) == form)
    return TAKEN if taken_apart(data)[0].flags or ms is not None else REFUSED


def judge_journal(data: bytes) -> str:
    """A rewrite that is taken is the same when it is written and read; what is cut out is never more than was ours."""
    line = b"From moverq-00-0 Fri Nov 14 22:13:20 2023 +0000\n"
    torn = _torn_bytes(data, line)
    assert not torn or line.startswith(data[: torn - 1]) or data[torn - 1 : torn] == b"\n"
    told = decode_announced(data)
    assert told is None or told.begin >= 0
    plan = decode_journal(data)
    if plan is None:
        return TAKEN if told is not None else REFUSED
    packed = msgpack.packb(attrs.astuple(plan))
    assert decode_journal(packed + len(packed).to_bytes(4, "big")) == plan
    return TAKEN


def journal() -> bytes:
    plan = Journal(
        segments=((3, 4), (9, 0)), old_size=20, new_size=9, untouched=b"u", before=b"b", leftover=b"l", note=b"n"
    )
    packed = bytes(msgpack.packb(attrs.astuple(plan)))
    return packed + len(packed).to_bytes(4, "big")


DECODERS = (
    Decoder("mbox-file", judge_mbox_file, (FIRST + SECOND, INTERNAL + FIRST, (FIRST + FIRST).replace(b"\n", b"\r\n"))),
    Decoder("mbox-message", judge_mbox_message, (FIRST, SECOND, FIRST.replace(b"\n", b"\r\n"), b"", b"no end")),
    Decoder("mbox-journal", judge_journal, (journal(), msgpack.packb((5, FROM)), FROM[:9] + b"\n" + FROM)),
)
