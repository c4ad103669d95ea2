"""What file names and side files of Maildirs say, as they are found in the wild."""

import errno
import os
from pathlib import Path

import pytest

from moverq.endpoints.files import dot_lock, subscriptions
from moverq.endpoints.files.owner import Owner
from moverq.endpoints.kinds import is_mail_system
from moverq.endpoints.maildir import names, side_files
from moverq.endpoints.maildir.settings import parse
from moverq.errors import RequestRefused

KEYWORDS = {"a": "work", "b": "$Junk"}


@pytest.mark.parametrize(
    ("name", "base", "said"),
    [
        (b"1700000000.M7P3.host", b"1700000000.M7P3.host", (0, ())),
        (b"1700000000.M7P3.host:2,", b"1700000000.M7P3.host", (0, ())),
        (b"1700000000.M7P3.host,S=12,W=13:2,FS", b"1700000000.M7P3.host", (5, ())),
        (b"1700000000.M7P3.host,W=13,S=12:2,S", b"1700000000.M7P3.host", (1, ())),
        (b"1700000000.M7P3.host;2,RS", b"1700000000.M7P3.host", (3, ())),
        (b"1700000000.M7P3.host!2,DT", b"1700000000.M7P3.host", (24, ())),
        (b"1700000000.M7P3.host:2,Sab", b"1700000000.M7P3.host", (1, ("$Junk", "work"))),
        (b"1700000000.M7P3.host:2,PSz", b"1700000000.M7P3.host", (1, ("$Forwarded",))),
        (b"1700000000.M7P3.host:2,FS,extra", b"1700000000.M7P3.host", (5, ())),
        (b"1700000000.M7P3.host:1,xyz", b"1700000000.M7P3.host", (0, ())),
        (b"what!a;name", b"what!a;name", (0, ())),
        (b"\xff\xfe:2,S", b"\xff\xfe", (1, ())),
    ],
)
def test_a_name_says_who_it_is_and_which_flags_it_has(
    name: bytes, base: bytes, said: tuple[int, tuple[str, ...]]
) -> None:
    assert names.base(name) == base
    assert names.said(names.parts(name).letters, KEYWORDS) == said


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"1.host", b"1.host:2,Sa"),
        (b"1.host,S=5:2,FT", b"1.host,S=5:2,Sa"),
        (b"1.host;2,FT", b"1.host;2,Sa"),
        (b"1.host!2,", b"1.host!2,Sa"),
        (b"1.host:2,FXY,more", b"1.host:2,SXYa,more"),
        (b"1.host:2,bPS", b"1.host:2,Sa"),
    ],
)
def test_flags_change_and_what_is_nobodys_business_stays(name: bytes, wanted: bytes) -> None:
    changed = names.with_letters(name, 1, "a")
    assert changed == wanted
    assert names.base(changed) == names.base(name)


def test_a_name_gets_another_base_with_everything_else_as_it_was() -> None:
    assert names.with_base(b"1.host,S=5,W=6:2,S", b"1.host.other") == b"1.host.other,S=5,W=6:2,S"
    assert names.with_base(b"1.S=5.host", b"new") == b"new"


# ---- side files


def test_a_uid_list_of_dovecot_is_read() -> None:
    data = b"3 V1700000000 N1 Gabc\n1 :1.host,S=5\n7 W99 S98 :2.host:2,S\n9 :torn"
    found = side_files.decode_uid_list(data)
    assert (found.validity, found.uidnext) == (1700000000, 8)
    assert found.uids == {b"1.host": 1, b"2.host": 7}


@pytest.mark.parametrize("head", [b"1 1700000000 12\n", b"3 V1700000000 N12\n"])
def test_the_next_uid_is_never_behind_the_list(head: bytes) -> None:
    colon = b":" if head[:1] == b"3" else b""
    assert side_files.decode_uid_list(head + b"11 " + colon + b"a\n").uidnext == 12
    assert side_files.decode_uid_list(head + b"40 " + colon + b"a\n").uidnext == 41


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"2 V1 N1\n", b"3 N1\n", b"3 Vx N1\n", b"1 5\n", b"3 V0 N1\n1 :a\n", b"3 V99999999999 N1\n"]
)
def test_what_is_no_uid_list_says_nothing(data: bytes) -> None:
    assert side_files.decode_uid_list(data) == side_files.UidList()


def test_uids_that_are_none_or_given_twice_are_left_out() -> None:
    found = side_files.decode_uid_list(b"3 V5 N1\n0 :a\n3 :b\n3 :c\nx :d\n4 \n5000000000 :e\n")
    assert found.uids == {b"b": 3}


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner.of(os.fsencode(tmp_path))


def test_a_keyword_gets_a_letter_once_and_the_twenty_seventh_gets_none(tmp_path: Path, owner: Owner) -> None:
    folder = os.fsencode(tmp_path)
    (tmp_path / "dovecot-keywords").write_bytes(b"0 work\n2 $Junk\n")
    assert side_files.letters_for(folder, ["Work", "$junk"], owner) == {"Work": "a", "$junk": "c"}
    assert side_files.letters_for(folder, ["new"], owner) == {"new": "b"}
    assert (tmp_path / "dovecot-keywords").read_bytes() == b"0 work\n1 new\n2 $Junk\n"
    many = [f"k{number}" for number in range(30)]
    given = side_files.letters_for(folder, many, owner)
    assert len(given) == len(set(given.values())) == 23
    assert side_files.letters_for(folder, [*many, "two words", ""], owner) == given
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dovecot-keywords"]


def test_a_lock_is_waited_for_unless_its_maker_is_dead(
    tmp_path: Path, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dot_lock, "LOCK_S", 0.1)
    folder, lock = os.fsencode(tmp_path), tmp_path / "dovecot-keywords.lock"
    lock.write_bytes(b"0 being-written\n")
    with pytest.raises(TimeoutError):
        side_files.letters_for(folder, ["work"], owner)
    assert lock.exists()
    os.utime(lock, (1, 1))
    assert side_files.letters_for(folder, ["work"], owner) == {"work": "a"}
    lock.write_bytes(dot_lock.OURS)  # and nobody holds it
    assert side_files.letters_for(folder, ["more"], owner) == {"more": "b"}
    held = dot_lock.dot_lock(os.fsencode(lock))
    with pytest.raises(TimeoutError):
        side_files.letters_for(folder, ["third"], owner)
    os.close(held)
    assert side_files.letters_for(folder, ["third"], owner) == {"third": "c"}
    assert not lock.exists()
    lock.write_bytes(dot_lock.OURS)  # left behind when everything had been done
    assert side_files.letters_for(folder, ["third"], owner) == {"third": "c"}
    assert not lock.exists()


def test_a_lock_that_nobody_may_read_is_waited_for_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postfix gives its own no mode at all, and who moves mail need not be root."""
    monkeypatch.setattr(dot_lock, "LOCK_S", 0.1)
    lock = tmp_path / "inbox.lock"
    lock.touch()
    opened = os.open

    def denied(path: bytes, how: int, mode: int = 0o777) -> int:
        if how & os.O_ACCMODE == os.O_RDONLY and os.path.exists(path):  # for root, as whom tests run, may read all
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, how, mode)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(TimeoutError):
        dot_lock.dot_lock(os.fsencode(lock))
    assert dot_lock.is_held(os.fsencode(lock))
    os.utime(lock, (1, 1))
    os.close(dot_lock.dot_lock(os.fsencode(lock)))
    assert lock.read_bytes() == dot_lock.OURS


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"V\t2\n\nA\tB\n"),
        (b"V\t2\n\nSent\nA\tC\n", b"V\t2\n\nSent\nA\tC\nA\tB\n"),
        (b"Sent\nA.C\n", b"Sent\nA.C\nA.B\n"),
    ],
)
def test_subscriptions_keep_their_form(tmp_path: Path, owner: Owner, before: bytes, after: bytes) -> None:
    root = os.fsencode(tmp_path)
    if before:
        (tmp_path / "subscriptions").write_bytes(before)
    had = subscriptions.read_subscriptions(root, b".")
    subscriptions.subscribe(root, b"A.B", True, separator=b".", owner=owner)
    assert (tmp_path / "subscriptions").read_bytes() == after
    assert subscriptions.read_subscriptions(root, b".") == had | {b"A.B"}
    subscriptions.subscribe(root, b"A.B", False, separator=b".", owner=owner)
    assert subscriptions.read_subscriptions(root, b".") == had


def test_subscriptions_of_courier_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "courierimapsubscribed").write_bytes(b"INBOX\nINBOX.Sent\nINBOX.A.B\n")
    assert subscriptions.read_subscriptions(os.fsencode(tmp_path), b".") == {b"INBOX", b"Sent", b"A.B"}


# ---- locations


def test_a_location_says_where_a_user_lives() -> None:
    settings = parse("maildir:/var/vmail/%d/%n/Maildir:LAYOUT=fs:INBOX=/var/mail/%u:CONTROL=/c/%n%%:INDEX=/i:UTF-8")
    layout = settings.layout_of(settings.user_of("ada@example.org"))
    assert (layout.root, layout.inbox) == (b"/var/vmail/example.org/ada/Maildir", b"/var/mail/ada@example.org")
    assert (layout.control, layout.nested, layout.utf8) == (b"/c/ada%", True, True)
    assert not settings.is_one_mailbox
    assert parse("maildir:/home/ada/Maildir").is_one_mailbox
    assert is_mail_system("maildir:/x")
    assert not is_mail_system("/x/maildir:")
    assert not is_mail_system("maildir")  # a database may be called so


def test_a_home_is_that_of_the_systems_user() -> None:
    settings = parse("maildir:%h/Maildir")
    assert settings.layout_of("root@example.org").root == os.fsencode(Path("~root/Maildir").expanduser())
    assert not settings.is_one_mailbox
    with pytest.raises(RequestRefused, match="no user of this system"):
        settings.user_of("nobody-of-this-name@example.org")


def test_a_fence_may_follow_a_question_mark() -> None:
    settings = parse("maildir:/m/%u?lock-command=/bin/lock {user}&release-command=/bin/open {user}")
    assert (settings.lock_command, settings.release_command) == (("/bin/lock", "{user}"), ("/bin/open", "{user}"))


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("maildir:", "no absolute path"),
        ("maildir:relative/path", "no absolute path"),
        ("maildir:/m/%x", "of Dovecot's variables"),
        ("maildir:/m:LAYOUT=index", "or fs$"),
        ("maildir:/m:WHAT=1", "WHAT means nothing"),
        ("maildir:/m?x=1", "x means nothing"),
        ("maildir:/m?lock-command=a", "go together"),
    ],
)
def test_a_location_that_cannot_be_meant_is_refused(location: str, why: str) -> None:
    with pytest.raises(RequestRefused, match=why):
        parse(location)


@pytest.mark.parametrize("address", ["../x@y", "a/b@c", "x@..", ""])
def test_an_address_never_leads_out_of_the_path(address: str) -> None:
    with pytest.raises(RequestRefused, match="cannot be part of the path"):
        parse("maildir:/var/vmail/%d/%n").user_of(address)
