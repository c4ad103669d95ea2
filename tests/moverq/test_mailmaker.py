"""Made mail: the same from the same seed, and with the oddities that moving mail must survive."""

import hashlib
from collections import Counter
from itertools import pairwise
from statistics import median

from moverq.mailmaker import make_mail


def test_the_same_seed_makes_the_same_mail_on_every_machine() -> None:
    digest = hashlib.sha256()
    for item in make_mail(4711, 500):
        digest.update(repr((item.folder, item.received_ms, item.flags, item.keywords)).encode() + item.content)
    assert digest.hexdigest() == "702e4229c98075b67bc72f96bb69a3261d39140c921ba3d6a55203048ca10130"
    assert list(make_mail(1, 50)) == list(make_mail(1, 50)) != list(make_mail(2, 50))


def test_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    assert list(make_mail(1, 50)) == list(make_mail(1, 200))[:50]


def test_made_mail_looks_like_a_mailbox() -> None:
    made = list(make_mail(3, 4000, 4096))
    assert len(made) == 4000
    sizes = [len(item.content) for item in made]
    assert 3500 < median(sizes) < 4700
    assert max(sizes) > 20 * 4096
    assert all(item.content.endswith(b"\r\n") and b"\n" not in item.content.replace(b"\r\n", b"") for item in made)
    assert len({item.folder for item in made}) == 10
    assert {len(item.folder) for item in made} == {1, 2, 3}
    assert any(not name.isascii() for item in made for name in item.folder)
    assert {flag for item in made for flag in (1, 2, 4, 16) if item.flags & flag} == {1, 2, 4, 16}
    assert {keyword for item in made for keyword in item.keywords} == {"$Label1", "$Forwarded", "work", "NonJunk"}
    assert all(tuple(sorted(set(item.keywords))) == item.keywords for item in made)
    assert sum(later.received_ms < earlier.received_ms for earlier, later in pairwise(made)) == 0


def test_made_mail_has_what_breaks_careless_programs() -> None:
    made = list(make_mail(5, 4000, 600))
    contents = Counter(item.content for item in made)
    assert any(count > 1 for count in contents.values())
    assert any(b"\0" in content for content in contents)
    assert any(b"\r" in content.replace(b"\r\n", b"") for content in contents)
    assert any(b"Message-ID" not in content for content in contents)
