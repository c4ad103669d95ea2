"""What is counted is said as a person would."""

import pytest

from moverq.words import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 mailboxes"), (1, "1 mailbox"), (2, "2 mailboxes"), (12_345, "12,345 mailboxes")]
)
def test_one_is_no_plural(number: int, said: str) -> None:
    assert counted(number, "mailbox", "mailboxes") == said
    assert counted(number, "item") == said.replace("mailboxes", "items").replace("mailbox", "item")
