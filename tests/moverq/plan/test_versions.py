import pytest

from moverq.plan.versions import MATRIX, decide, said_wrong


@pytest.mark.parametrize(
    ("source", "target", "online"),
    [
        ("2010", "2010", True),
        ("2010", "2010 SP1", True),
        ("2007 SP2", "2010", True),
        ("2007 SP3", "2010", True),
        ("2007 SP1", "2010", False),
        ("2007", "2010", False),
        ("2003", "2010", False),
        ("2010", "2007 SP2", False),
        ("2010", "2003", False),
        ("2013", "2019", False),
        ("Zimbra 8", "2010", False),
    ],
)
def test_the_pair_of_versions_decides(source: str, target: str, online: bool) -> None:
    assert decide(source, target).online is online


def test_a_move_down_says_so_and_an_unknown_pair_says_what_to_do() -> None:
    assert "move down from 2010 to 2003" in decide("2010", "2003").because
    assert "set the servers' versions" in decide("2010", "Dovecot").because


@pytest.mark.parametrize("version", ["5.5", "2003", "2007 SP2", " 2010 sp1", "2019", "imap", "MAILDIR", "MBOX"])
def test_a_version_that_moves_are_decided_by_is_one(version: str) -> None:
    assert said_wrong(version) is None


@pytest.mark.parametrize("version", ["", "banana", "2011", "2010SP1", "2010 SP1 RU3", "2010 SPx", "15.1", "IMAP SP2"])
def test_a_version_that_cannot_be_compared_is_none(version: str) -> None:
    assert "say 5.5, 2000, 2003" in (said_wrong(version) or "")


def test_every_rule_names_its_source() -> None:
    assert all(rule.because for rule in MATRIX)
