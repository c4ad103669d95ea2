"""The format itself: where messages begin, what is said of them, and changes in the middle of a file."""

import os
import random
import re
import time
from pathlib import Path

import msgpack
import pytest

from moverq.endpoints.files import dot_lock
from moverq.endpoints.kinds import is_mail_system
from moverq.endpoints.mbox import appending, index, locks, message, rewriting, splitting
from moverq.endpoints.mbox.index import read_index, read_message
from moverq.endpoints.mbox.message import Base, as_mail, as_stored, separator_ms, taken_apart, with_said
from moverq.endpoints.mbox.rewriting import Changes, recover, rewrite
from moverq.endpoints.mbox.settings import parse
from moverq.endpoints.mbox.splitting import split
from moverq.endpoints.mirrored.normal_form import content_hash
from moverq.errors import RequestRefused
from moverq.model.ids import ItemId, new_id
from tests.support.killing import Killed, Steps, count_disk_calls

FROM = b"From a@b Tue Nov 14 22:13:20 2023 +0000\n"
LINES = (
    FROM,
    b"From me to you\n",
    b">From a@b Tue Nov 14 22:13:20 2023\n",
    b"\n",
    b"\r\n",
    b"Subject: x\n",
    b"Status: RO\n",
    b"Content-Length: 40\n",
    b"X-IMAPbase: 7 0000000003 work\n",
    b"X-UID: 2\n",
    b"X-Keywords: work other\n",
    b"text\n",
    b"no end",
)


# ---- separators


@pytest.mark.parametrize(
    ("line", "ms"),
    [
        (b"From a@b Tue Nov 14 22:13:20 2023 +0000\n", 1_700_000_000_000),
        (b"From a@b  Tue Nov 14 23:13:20 2023 +0100\r\n", 1_700_000_000_000),
        (b"From a@b Tue Nov 14 22:13:20 GMT 2023\n", 1_700_000_000_000),
        (b"From a@b Tue Nov 14 17:13:20 -0500 2023\n", 1_700_000_000_000),
        (b'From "a b"@c Tue Nov 14 22:13:20 2023 +0000', 1_700_000_000_000),
        (b"From - Tue Nov  4 22:13 2023 +0000\n", 1_699_135_980_000),
        (b"From a@b Tue Foo 14 22:13:20 2023\n", None),
        (b"From a@b Tue Nov 99 22:13:20 2023\n", None),
        (b"From me to you\n", None),
        (b"From what I heard, Tue Nov 14 22:13:20 2023\n", None),
        (b"From: a@b Tue Nov 14 22:13:20 2023 +0000x", None),
        (b">From a@b Tue Nov 14 22:13:20 2023\n", None),
    ],
)
def test_a_separator_has_its_date_where_it_must_be(line: bytes, ms: int | None) -> None:
    assert separator_ms(line) == ms


def test_a_date_without_a_zone_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert separator_ms(b"From a@b Tue Nov 14 23:13:20 2023\n") == 1_700_000_000_000
    finally:
        monkeypatch.undo()
        time.tzset()


def reference(data: bytes) -> list[bytes]:
    """Where messages begin, by Dovecot's rules, a line at a time; Content-Length not asked."""
    found: list[bytes] = []
    separators = {line for line in LINES if message.SEPARATOR.match(line)}
    for line in data.splitlines(keepends=True) if b"\r" not in data else re.findall(rb"[^\n]*\n|[^\n]+", data):
        if not found or (message.SEPARATOR.match(line) and found[-1] not in separators):
            found.append(b"")
        found[-1] += line
    return found


@pytest.mark.parametrize("seed", range(40))
def test_a_file_is_split_into_all_of_its_bytes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "SCAN_BYTES", 1 + seed * 5)
    chance = random.Random(seed)
    lines = [line for line in LINES if not line.startswith(b"Content-Length")]
    data = FROM + b"".join(chance.choice(lines) for _ in range(60))
    pieces = list(split(lambda at, size: data[at : at + size]))
    assert [piece.separator + piece.text for piece in pieces] == reference(data)
    assert [piece.begin for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]


def pieces_of(data: bytes) -> list[bytes]:
    return [piece.text for piece in split(lambda at, size: data[at : at + size])]


def test_a_length_is_believed_where_a_message_begins_there() -> None:
    body = b"a\n\n" + FROM + b"X: y\n\nrest\n"
    first = b"Subject: 1\nContent-Length: %d\n\n" % len(body) + body + b"\n"
    assert pieces_of(FROM + first + FROM + b"Subject: 2\n\n\n") == [first, b"Subject: 2\n\n\n"]
    assert pieces_of(FROM + first) == [first]
    for wrong in (len(body) - 1, len(body) + 1, 0, 10**9, 10**20):
        lie = b"Subject: 1\nContent-Length: %d\n\n" % wrong + body + b"\n"
        assert len(pieces_of(FROM + lie + FROM + b"Subject: 2\n\n\n")) == 3


def test_a_text_that_looks_like_messages_stays_one_when_its_flags_change(tmp_path: Path) -> None:
    """As Dovecot writes it: not quoted, and told by its length alone."""
    body = b"a patch:\n\n" + FROM + b"Subject: inner\n\ninner\n"
    first = FROM + b"Subject: 1\nContent-Length: %d\n\n" % len(body) + body + b"\n"
    for end in (b"\n", b"\r\n"):
        content = (first + FROM + b"Subject: 2\n\n\n").replace(b"%d" % len(body), b"%d" % len(body.replace(b"\n", end)))
        path = written(tmp_path / "a", content.replace(b"\n", end))
        before = contents(path)
        assert len(before) == 2
        rewrite(path, Changes(flags={next(iter(read_index(path).entries)): (1, ())}), path + b".j", nothing)
        assert contents(path) == [(before[0][0], 1, ()), before[1]]


def test_a_message_that_is_too_large_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "SCAN_BYTES", 100)
    monkeypatch.setattr(splitting, "MESSAGE_BYTES_MAX", 1000)
    data = FROM + b"Subject: 1\n\n" + b"x" * 5000 + b"\n\n" + FROM + b"Subject: 2\n\n\n"
    large, small = split(lambda at, size: data[at : at + size])
    assert (large.is_too_large, large.text) == (True, b"")
    assert small.text == b"Subject: 2\n\n\n"


# ---- a message


@pytest.mark.parametrize("seed", range(60))
def test_what_is_stored_comes_back(seed: int) -> None:
    """Byte by byte, or in the normal form that is known for it."""
    chance = random.Random(seed)
    content = b"".join(chance.choice(LINES) for _ in range(chance.randrange(12)))
    if seed % 2:
        content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    base = Base(7, 3, ("work",)) if seed % 3 else None
    text = with_said(as_stored(content), flags=5, keywords=("work",), uid=seed % 5, base=base)
    said, bare = taken_apart(text)
    assert (said.flags, said.keywords, said.uid, said.base) == (5, ("work",), seed % 5, base)
    pieces = list(split(lambda at, size: (FROM + text + FROM)[at : at + size]))
    assert [piece.text for piece in pieces] == [text, b""]
    back, form = as_mail(bare), message.normal_hash(content)
    if form is None:
        assert back == content
    else:
        assert content_hash(message.normal(back)) == form


def test_flags_change_without_anything_moving() -> None:
    text = with_said(as_stored(b"Subject: x\r\n\r\ntext\r\n"), flags=0, keywords=(), base=Base(7, 0, ()))
    changed = with_said(
        text, flags=31, keywords=("a", "word"), uid=12345, base=Base(7, 9, ("a", "word")), length=len(text)
    )
    assert len(changed) == len(text)
    said, bare = taken_apart(changed)
    assert said == message.Said(31, ("a", "word"), 12345, Base(7, 9, ("a", "word")), False)
    assert bare == taken_apart(text)[1]
    long = with_said(text, flags=0, keywords=["w" * 100] * 9, length=len(text))
    assert len(long) > len(text)


def test_fields_that_are_nonsense_say_nothing() -> None:
    text = b"Status: \xff\nX-UID: 99999999999\nX-UID: -1\nX-IMAPbase: x y\nX-Keywords:\n\tfolded\n\nStatus: RO\n"
    said, bare = taken_apart(text)
    assert said == message.Said(0, ("folded",), 0, Base(0, 0, ()), False)
    assert bare == b"\nStatus: RO\n"


# ---- a file


def written(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return os.fsencode(path)


def contents(path: bytes) -> list[tuple[bytes, int, tuple[str, ...]]]:
    found = read_index(path, is_ours=True)
    return [
        (read_message(path, entry, base) or b"", entry.flags, entry.keywords) for base, entry in found.entries.items()
    ]


def test_a_file_that_grew_is_read_from_its_last_message_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = FROM + b"Subject: 1\n\ntext\n\n"
    path = written(tmp_path / "a", one * 3)
    known = read_index(path)
    begins: list[int] = []

    def watched(read_at: splitting.ReadAt, begin: int = 0) -> object:
        begins.append(begin)
        return split(read_at, begin)

    monkeypatch.setattr(index, "split", watched)
    written(tmp_path / "a", one * 5)
    assert read_index(path, known=known).entries.keys() == {*known.entries, *read_index(path).entries}
    written(tmp_path / "a", one.replace(b"1", b"2") * 3 + one)  # as long, and another one
    assert read_index(path, known=known).entries == read_index(path).entries
    assert begins == [2 * len(one), 0, 0, 0]


def test_keywords_are_those_that_the_folder_has(tmp_path: Path) -> None:
    fields = b"X-IMAPbase: 7 0000000003 work\nX-Keywords: work spam\n"
    path = written(tmp_path / "a", FROM + fields + b"\n1\n\n" + FROM + b"X-Keywords: work spam\n\n2\n\n")
    assert [keywords for _, _, keywords in contents(path)] == [("work",), ("work",)]


def test_the_message_that_is_none_says_what_the_folder_has(tmp_path: Path) -> None:
    internal = FROM + b"X-IMAP: 7 0000000009 work\nStatus: RO\n\nDO NOT DELETE\n\n"
    path = written(tmp_path / "a", internal + FROM + b"X-Keywords: work\n\n1\n\n")
    found = read_index(path)
    assert (found.base, len(found.entries)) == (Base(7, 9, ("work",)), 1)
    (base,) = found.entries
    rewrite(path, Changes(flags={base: (1, ("late", "work"))}, keywords=frozenset({"late"})), path + b".j", nothing)
    assert contents(path) == [(b"\r\n1\r\n", 1, ("late", "work"))]
    assert read_index(path).base == Base(7, 9, ("work", "late"))


def nothing(there: set[bytes], new: dict[bytes, bytes]) -> bytes:
    return b""


def test_what_the_first_message_says_of_the_folder_stays_when_it_goes(tmp_path: Path) -> None:
    first = FROM + b"X-IMAPbase: 7 0000000003 work\nX-UID: 1\n\n1\n\n"
    path = written(tmp_path / "a", first + FROM + b"X-UID: 2\n\n2\n\n" + FROM + b"X-UID: 3\nX-Keywords: work\n\n3\n\n")
    one, two, _ = read_index(path).entries
    rewrite(path, Changes(gone=frozenset({one, two})), path + b".j", nothing)
    found = read_index(path)
    assert (found.base, [entry.uid for entry in found.entries.values()]) == (Base(7, 3, ("work",)), [3])
    assert contents(path) == [(b"\r\n3\r\n", 0, ("work",))]


# ---- cut short


EQUAL = FROM + b"Subject: equal\n\ntext\n\n"
OTHER = FROM.replace(b"a@b", b"c@d") + b"Subject: other\n\n" + b"more\n" * 100 + b"\n"
CASES = {
    "shorter": Changes(gone=frozenset({b"equal.0"})),
    "shorter-at-the-end": Changes(gone=frozenset({b"equal.2"})),
    "longer": Changes(flags={b"equal.1": (1, ()), b"other.0": (2, ())}),
    "both": Changes(flags={b"other.0": (2, ()), b"equal.2": (1, ("w",))}, gone=frozenset({b"equal.0"}), validity=7),
}


def test_no_two_states_of_a_file_within_a_second_look_alike(tmp_path: Path) -> None:
    """To Dovecot, which looks at whole seconds and sizes, each is another than the one before; to us, than any: a file
    from which as much was removed as was appended meanwhile has come back to its size."""
    path, journal = written(tmp_path / "a", EQUAL + OTHER), os.fsencode(tmp_path / "journal")
    seen = [index.stamp_of(path)]
    for turn in range(60):
        bases = list(read_index(path).entries)
        rewrite(path, Changes(flags={bases[0]: (turn % 32, ())}), journal, nothing)
        seen.append(index.stamp_of(path))
        assert (seen[-1].size, seen[-1].mtime_ns // 10**9) != (seen[-2].size, seen[-2].mtime_ns // 10**9)
        with open(path, "ab") as file:
            file.write(EQUAL)
        rewrite(path, Changes(gone=frozenset({bases[0]})), journal, nothing)
        seen.append(index.stamp_of(path))
    assert len(set(seen)) == len(seen)


def test_a_time_of_whole_seconds_says_nothing_before_they_are_over(tmp_path: Path) -> None:
    """Dovecot sets it so after each change: two within a second, and of one size, look alike."""
    path, second = written(tmp_path / "a", EQUAL), int(time.time())
    os.utime(path, (second, second))
    assert not read_index(path).is_settled
    assert index.signature_of(index.stamp_of(path)) == 0
    os.utime(path, (second - 10, second - 10))
    assert read_index(path).is_settled
    assert index.signature_of(index.stamp_of(path)) != 0


@pytest.mark.parametrize("straggler", [b"", FROM + b"Subject: late\n\n\n"], ids=["alone", "straggler"])
@pytest.mark.parametrize("case", CASES)
def test_a_rewrite_cut_short_anywhere_is_made_once(
    case: str, straggler: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal messages, byte by byte, one goes and not two. What somebody delivers after the crash stays."""
    before = EQUAL * 2 + OTHER + EQUAL
    found = read_index(written(tmp_path / "names", before))
    full = {name.partition(b".")[0]: name.partition(b".")[0] for name in found.entries}
    equal, other = sorted(full, key=lambda name: -sum(one.startswith(name) for one in found.entries))
    real = {b"equal": equal, b"other": other}

    def named(base: bytes) -> bytes:
        stem, _, number = base.partition(b".")
        return real[stem] + b"." + number

    changes = Changes(
        flags={named(base): said for base, said in CASES[case].flags.items()},
        gone=frozenset(named(base) for base in CASES[case].gone),
    )
    path, journal = written(tmp_path / "a", before), os.fsencode(tmp_path / "journal")
    rewrite(path, changes, journal, nothing)
    after = (tmp_path / "a").read_bytes()
    assert after != before
    steps = Steps()
    count_disk_calls(monkeypatch, steps, rewriting)
    counted = rewriting.os.pwrite

    def half(descriptor: int, data: bytes, at: int) -> int:
        if len(data) < 2:
            return int(counted(descriptor, data, at))
        return int(counted(descriptor, data[: len(data) // 2], at))

    monkeypatch.setattr(rewriting.os, "pwrite", half, raising=False)
    kills = 0
    for kill_at in range(1, 10_000):
        (tmp_path / "a").write_bytes(before)
        rewriting.forget(journal)
        steps.begin(kill_at)
        try:
            rewrite(path, changes, journal, nothing)
            steps.begin(0)
            break
        except Killed:
            kills += 1
        steps.begin(0)
        with open(tmp_path / "a", "ab") as file:
            file.write(straggler)
        for _ in range(2):  # the second time as after a crash before the mirror was told
            done = recover(path, journal)
            if done is None:
                rewriting.forget(journal)
                rewrite(path, changes, journal, nothing)
        assert (tmp_path / "a").read_bytes() == after + straggler, kill_at
    assert kills > 5


def test_a_journal_that_does_not_fit_any_more_is_left(tmp_path: Path) -> None:
    path, journal = written(tmp_path / "a", EQUAL * 3), os.fsencode(tmp_path / "journal")
    rewrite(path, Changes(gone=frozenset({next(reversed(read_index(path).entries))})), journal, nothing)
    others = OTHER + EQUAL * 3
    written(tmp_path / "a", others)
    assert recover(path, journal) is None
    assert (tmp_path / "a").read_bytes() == others
    for cut in range(0, os.path.getsize(journal), 3):
        os.truncate(journal, os.path.getsize(journal) - 3 if cut else os.path.getsize(journal) - 1)
        assert recover(path, journal) is None


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\0\0\0\1\xc1",
        msgpack.packb((1, 2)) + b"\0\0\0\3",
        msgpack.packb((((5, 1), (1, 1)), 9, 9, b"", b"", b"", b"")) + (13).to_bytes(4, "big"),
    ],
)
def test_a_journal_that_is_none_is_none(tail: bytes) -> None:
    assert rewriting.decode_journal(tail) is None


# ---- locks


def test_who_holds_either_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a", EQUAL)
    monkeypatch.setattr(locks, "LOCK_S", 0.1)
    monkeypatch.setattr(dot_lock, "LOCK_S", 0.1)
    monkeypatch.setattr(index, "WAIT_S", 0.01)
    with open(path, "rb+") as file:
        assert locks._try_lock(file.fileno())
        with pytest.raises(TimeoutError), locks.locked(path):
            pass
        assert not (tmp_path / "a.lock").exists()
        assert not read_index(path).is_whole
    (tmp_path / "a.lock").touch()
    with pytest.raises(TimeoutError), locks.locked(path):
        pass
    assert not read_index(path).is_whole
    (tmp_path / "a.lock").write_bytes(dot_lock.OURS)  # and who made it is dead
    assert read_index(path).is_whole
    with locks.locked(path):
        assert not read_index(path).is_whole
        assert (tmp_path / "a.lock").exists()
    assert read_index(path).is_whole


# ---- locations


def test_a_location_says_where_a_user_lives() -> None:
    settings = parse("mbox:~/mail:INBOX=/var/mail/%n:UTF-8")
    layout = settings.layout_of(settings.user_of("root@example.org"))
    assert layout.root == os.fsencode(Path("~root/mail").expanduser())
    assert (layout.inbox_path(), layout.utf8) == (b"/var/mail/root", True)
    assert not settings.is_one_mailbox
    assert parse("mbox:/var/mail/ada.mbox").is_one_mailbox
    assert parse("mbox:/var/mail/ada.mbox").layout_of("ada@example.org").path(b"INBOX") == b"/var/mail/ada.mbox"
    assert is_mail_system("mbox:/x")
    assert not is_mail_system("/x/mbox:")
    assert not is_mail_system("mbox")  # a database may be called so


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("mbox:", "no absolute path"),
        ("mbox:relative", "no absolute path"),
        ("mbox:/m:LAYOUT=maildir++", "only be fs"),
        ("mbox:/m:DIRNAME=x", "DIRNAME means nothing"),
        ("mbox:/m?lock-command=a", "go together"),
    ],
)
def test_a_location_that_cannot_be_meant_is_refused(location: str, why: str) -> None:
    with pytest.raises(RequestRefused, match=why):
        parse(location)


@pytest.mark.parametrize("before", [b"", FROM + b"Subject: a\n\n\n"])
@pytest.mark.parametrize("cut", [FROM, FROM[:-1], FROM + b"\n", FROM + b"Subject: b"])
def test_a_message_behind_a_delivery_that_was_cut_short_is_one_of_its_own(
    tmp_path: Path, before: bytes, cut: bytes
) -> None:
    """Behind a separator that nothing follows, the next one would be its message's first line."""
    path, announcement = os.fsencode(tmp_path / "box"), os.fsencode(tmp_path / "announced")
    (tmp_path / "box").write_bytes(before + cut)
    there = read_index(path)
    one = appending.stored(
        ItemId(new_id()), 1, b"Subject: x\r\n\r\nnew\r\n", received_ms=1_700_000_000_000, flags=0, words=()
    )
    held, (base,) = appending.append(path, [one], announcement=announcement, validity=0, known=None)
    assert list(read_index(path).entries) == list(held.entries) == [*there.entries, base]
    assert read_message(path, held.entries[base], base) == b"Subject: x\r\n\r\nnew\r\n"
    told = appending.announced(announcement)
    assert told is not None
    assert one.token in told.head
    torn = (tmp_path / "box").read_bytes()[: told.begin + len(told.head) - 3]
    (tmp_path / "box").write_bytes(torn)
    rewrite(path, Changes(torn=told), os.fsencode(tmp_path / "journal"), lambda *_: b"")
    assert (tmp_path / "box").read_bytes() == before + cut
