"""What the log can say: there and back, and what this version does not know is said, not guessed."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import records as r
from store.ids import FolderId, InstanceId, ItemId, MailboxId

A = InstanceId(b"a" * 16)
F = FolderId(b"f" * 16)
ROW = r.ItemRow(ItemId(b"i" * 16), F, 1, 2, -3, 4, b"h" * 16, 5, 6, 7, ("a", "b"), "IPM.Note", (("name", "wert ä"),))
STATE = r.ItemStateRow(ItemId(b"i" * 16), F, 1, 2, 3, ("a",), (("n", "v"),))

EVERY_KIND: tuple[r.Record, ...] = (
    r.MailboxMade(A, MailboxId(b"m"), 0, 1, 2),
    r.GuardSet(A, 3, 4, "there", 5),
    r.MailboxRemoved(A, 6),
    r.MailboxPurged(A),
    r.FolderPut(A, F, b"", "Wörk ", 1, 2, 3, "\\Sent", True, False, (("a", "1"),)),
    r.FolderGone(A, F, 9),
    r.ItemsPut(A, [ROW]),
    r.ItemsChanged(A, [STATE]),
    r.ItemsGone(A, [r.GoneRow(b"x" * 16, 10)]),
    r.SettingPut(A, "x-a", None, 11),
    r.DeliveryKeysPut(A, [r.DeliveryKeyRow(b"k", b"d" * 32, 12, 13)]),
    r.HeadRaised(A, 14),
    r.FeedCut(A, 15, 16),
    r.FolderRoomRaised(A, F, 17),
    r.SegmentsDropped((1, 2)),
    r.ItemsReplaced(A, [ROW, ROW]),
    r.MailboxConnected(A),
)


def test_every_kind_comes_back() -> None:
    assert {type(record) for record in EVERY_KIND} == set(r._KINDS.values())
    assert r.decode(r.encode([EVERY_KIND])) == [list(EVERY_KIND)]


def test_transactions_stay_apart_and_in_order() -> None:
    transactions = [EVERY_KIND[:3], (), EVERY_KIND[3:]]
    assert r.decode(r.encode(transactions)) == [list(one) for one in transactions]
    assert r.join([r.pack(one) for one in transactions]) == r.encode(transactions)
    assert r.decode(r.encode([])) == []


@pytest.mark.parametrize("number", [1, 15, 16, 65_535, 65_536])
def test_any_number_of_transactions_goes_together(number: int) -> None:
    assert len(r.decode(r.encode([[EVERY_KIND[3]]] * number))) == number


def test_the_format_does_not_change_silently() -> None:
    """Tags and the order of fields: today's code reads every log that was ever written."""
    tags = {kind.__name__: (tag, r._FIELDS[kind]) for tag, kind in sorted(r._KINDS.items())}
    assert {name: tag for name, (tag, _) in tags.items()} == {
        "MailboxMade": 1,
        "GuardSet": 2,
        "MailboxRemoved": 3,
        "MailboxPurged": 4,
        "FolderPut": 5,
        "FolderGone": 6,
        "ItemsPut": 7,
        "ItemsChanged": 8,
        "ItemsGone": 9,
        "SettingPut": 10,
        "DeliveryKeysPut": 11,
        "HeadRaised": 12,
        "FeedCut": 13,
        "FolderRoomRaised": 14,
        "SegmentsDropped": 15,
        "ItemsReplaced": 16,
        "MailboxConnected": 17,
    }
    assert r.encode([[EVERY_KIND[1], EVERY_KIND[9]]]).hex() == (
        "9192" + "9602c410" + "61" * 16 + "0304a5746865726505" + "950ac410" + "61" * 16 + "a3782d61c00b"
    )
    assert r.ItemRow._fields == (
        "item_id", "folder_id", "uid", "modseq", "received_ms", "size", "content_hash", "segment", "offset", "flags",
        "keywords", "item_class", "properties",
    )  # fmt: skip
    assert r.ItemStateRow._fields == ("item_id", "folder_id", "uid", "modseq", "flags", "keywords", "properties")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x05",
        msgpack.packb([[[99, b"a"]]]),
        msgpack.packb([[[]]]),
        msgpack.packb([[[4]]]),
        msgpack.packb([[[4, b"a", "a field of a later version"]]]),
        msgpack.packb([[[7, b"a", [[1, 2]]]]]),
        msgpack.packb([[5]]),
        r.encode([EVERY_KIND]) + b"\0",
        r.encode([EVERY_KIND])[:-1],
    ],
)
def test_what_this_version_does_not_know_is_said(payload: bytes) -> None:
    with pytest.raises(ValueError, match="does not know"):
        r.decode(payload)


def test_text_that_is_no_unicode_cannot_be_packed() -> None:
    with pytest.raises(UnicodeEncodeError):
        r.pack([r.SettingPut(A, "x-a", "\ud800", 1)])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_and_nothing_else(payload: bytes) -> None:
    try:
        found = r.decode(payload)
    except ValueError:
        return
    assert isinstance(found, list)
