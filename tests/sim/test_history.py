"""The judge of histories sees what is wrong with a history, and nothing where nothing is."""

from typing import Any

from store import Added
from store.ids import ItemId
from tests.sim.history import History, Op, Seen, SeenFolder, SeenItem
from tests.sim.judge import judge

INBOX, OTHER = b"inbox".ljust(16), b"other".ljust(16)
FOLDERS = {INBOX: SeenFolder(b"", "INBOX", 1, False), OTHER: SeenFolder(b"", "Other", 1, False)}
OLD, NEW = b"old".ljust(16), b"new".ljust(16)


class Told:
    """A history in the making: `ask` and `answer`, or both at once."""

    def __init__(self) -> None:
        self.history = History({"ada": seen(0, old=item())})

    def ask(self, verb: str, *args: Any) -> Op:
        return self.history.invoke("client", "ada", verb, *args)

    def answer(self, op: Op, told: Any) -> None:
        self.history.done(op, told)

    def do(self, verb: str, *args: Any, told: Any) -> Op:
        op = self.ask(verb, *args)
        self.answer(op, told)
        return op

    def rules(self) -> list[str]:
        return [violation.rule.split()[0] for violation in judge(self.history)]


def item(folder: bytes = INBOX, *, uid: int = 1, modseq: int = 1, flags: int = 0, content: bytes = b"old") -> SeenItem:
    return SeenItem(folder, uid, modseq, flags, (), content)


def seen(head: int, **items: SeenItem) -> Seen:
    return Seen(head, {name.encode().ljust(16): each for name, each in items.items()}, FOLDERS, {})


def added(uid: int, modseq: int) -> Added:
    return Added(ItemId(NEW), uid, modseq)


def test_what_follows_one_by_one_is_fine() -> None:
    told = Told()
    told.do("append", b"new", INBOX, 0, (), told=added(2, 5))
    told.do("flag", OLD, 1, (), told=1)
    told.do("read", told=seen(6, old=item(modseq=6, flags=1), new=item(uid=2, modseq=5, content=b"new")))
    told.do("purge", NEW, told=1)
    told.do("read", told=seen(7, old=item(modseq=6, flags=1)))
    assert told.rules() == []


def test_an_acknowledged_item_that_is_not_there_is_seen() -> None:
    told = Told()
    told.do("append", b"new", INBOX, 0, (), told=added(2, 5))
    told.do("read", told=seen(5, old=item()))
    assert told.rules() == ["I1"]


def test_what_was_never_answered_may_have_happened_or_not_but_not_both() -> None:
    for flags, rules in ((0, []), (1, []), (2, ["I1"])):
        told = Told()
        told.ask("flag", OLD, 1, ())
        told.do("read", told=seen(9, old=item(modseq=1 + flags, flags=flags)))
        assert told.rules() == rules
    told = Told()
    told.ask("flag", OLD, 1, ())
    told.do("read", told=seen(9, old=item(modseq=2, flags=1)))
    told.do("read", told=seen(9, old=item(modseq=1, flags=0)))
    assert told.rules() == ["I1"]


def test_two_at_a_time_may_take_effect_in_either_order_but_one_after_the_other_may_not() -> None:
    told = Told()
    one, other = told.ask("flag", OLD, 1, ()), told.ask("flag", OLD, 2, ())
    told.answer(one, 1)
    told.answer(other, 1)
    told.do("read", told=seen(9, old=item(modseq=3, flags=1)))
    assert told.rules() == []
    told = Told()
    told.do("flag", OLD, 1, (), told=1)
    told.do("flag", OLD, 2, (), told=1)
    told.do("read", told=seen(9, old=item(modseq=3, flags=1)))
    assert told.rules() == ["I1"]


def test_a_purged_item_that_comes_back_is_seen() -> None:
    told = Told()
    told.do("purge", OLD, told=1)
    told.do("read", told=seen(9, old=item()))
    assert told.rules() == ["I9"]


def test_a_delivery_that_is_there_twice_is_seen() -> None:
    told = Told()
    told.do("deliver", b"new", INBOX, 0, (), told=added(2, 5))
    twice = {"new": item(uid=2, modseq=5, content=b"new"), "again": item(uid=3, modseq=6, content=b"new")}
    told.do("read", told=seen(6, old=item(), **twice))
    assert "I15" in told.rules()


def test_a_delivery_acknowledged_as_a_duplicate_that_nobody_ever_sees_is_seen() -> None:
    told = Told()
    told.do("deliver", b"new", INBOX, 0, (), told=Added(None, 0, 0, duplicate=True))
    told.do("read", told=seen(6, old=item()))
    assert told.rules() == ["I1"]


def test_change_numbers_that_fall_and_uids_that_change_hands_are_seen() -> None:
    told = Told()
    told.do("append", b"new", INBOX, 0, (), told=added(2, 5))
    told.do("read", told=seen(4, old=item(), new=item(uid=2, modseq=4, content=b"new")))
    assert told.rules() == ["I16"]
    told = Told()
    told.do("append", b"new", INBOX, 0, (), told=added(1, 5))
    told.do("read", told=seen(5, old=item(), new=item(uid=1, modseq=5, content=b"new")))
    assert told.rules() == ["I17"]


def test_a_folder_that_is_elsewhere_than_was_told_is_seen() -> None:
    told = Told()
    told.do("rename", OTHER, b"", "Another", told=True)
    told.do("read", told=seen(9, old=item()))
    assert told.rules() == ["I1"]


def test_a_refused_operation_did_not_happen() -> None:
    told = Told()
    told.history.refused(told.ask("flag", OLD, 1, ()))
    told.do("read", told=seen(9, old=item(modseq=2, flags=1)))
    assert told.rules() == ["I1"]


def test_the_witness_ends_with_the_first_answer_that_nothing_explains() -> None:
    told = Told()
    told.do("flag", OLD, 1, (), told=1)
    told.do("read", told=seen(9, old=item(modseq=2, flags=1)))
    wrong = told.do("read", told=seen(9, old=item(modseq=1)))
    told.do("flag", OLD, 3, (), told=1)
    (violation,) = judge(told.history)
    assert f"#{wrong.number} " in violation.witness
    assert "flag" in violation.witness
    assert "3, ()" not in violation.witness
