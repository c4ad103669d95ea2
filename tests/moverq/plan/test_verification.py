from moverq.endpoints.base import MailboxAccount
from moverq.model.change import FolderState, ItemState, Watermark
from moverq.model.digest import FolderDigest
from moverq.model.ids import FolderId, InstanceId, ItemId
from moverq.plan.hierarchy import PARKED_PREFIX
from moverq.plan.verification import LedgerAccount, check_accounts, check_target, digests_of

INBOX, SENT = FolderId(b"inbox-----------"), FolderId(b"sent------------")


def folder(folder_id: FolderId, name: str, uidnext: int = 9) -> FolderState:
    return FolderState(folder_id, None, name, modseq=1, uidvalidity=7, uidnext=uidnext)


def item(name: bytes, flags: int = 0) -> ItemState:
    return ItemState(ItemId(name), INBOX, 1, 1, 1000, 10, b"hash" + name, flags, ())


TREE = (folder(INBOX, "INBOX"), folder(SENT, "Sent"))
ONE, TWO = item(b"one"), item(b"two")
BOTH = {INBOX: FolderDigest().plus(ONE).plus(TWO), SENT: FolderDigest()}


def account(digests: dict[FolderId, FolderDigest] = BOTH, tree: tuple[FolderState, ...] = TREE) -> MailboxAccount:
    head = Watermark(b"t", InstanceId(b"i"), 1)
    return MailboxAccount(head=head, folders=tree, settings=(("rules", "[]"),), digests=tuple(digests.items()))


def ledger(
    digests: dict[FolderId, FolderDigest] = BOTH, bad: dict[FolderId, FolderDigest] | None = None
) -> LedgerAccount:
    return LedgerAccount(folders=TREE, settings=(("rules", "[]"),), digests=digests, bad=bad or {}, kept={})


def check(source: MailboxAccount, target: MailboxAccount, of: LedgerAccount) -> tuple[str, ...]:
    return check_accounts(source, target, of, exact=True)


def test_three_that_say_the_same_have_no_discrepancy() -> None:
    assert check(account(), account(), ledger()) == ()
    assert digests_of(account(), account(), ledger()).agree


def test_a_missing_item_is_told_by_its_folder_and_count() -> None:
    less = {**BOTH, INBOX: FolderDigest().plus(ONE)}
    assert check(account(), account(less), ledger(less))[0] == "folder 'INBOX': 2 items at the source, 1 at the target"


def test_a_flag_that_differs_shows_though_counts_and_bytes_agree() -> None:
    other = {**BOTH, INBOX: FolderDigest().plus(ONE).plus(TWO._replace(flags=1))}
    (first, *_) = check(account(), account(other), ledger(other))
    assert "the same 2 items and 20 bytes, but a flag, date or content differs" in first


def test_source_and_target_may_not_agree_without_the_ledger() -> None:
    assert check(account(), account(), ledger({**BOTH, INBOX: FolderDigest().plus(ONE)})) == (
        "folder 'INBOX': 2 items at the target, 1 at the ledger",
    )


def test_bad_items_are_explained_to_the_last_bit() -> None:
    carried, bad = {**BOTH, INBOX: FolderDigest().plus(ONE)}, {INBOX: FolderDigest().plus(TWO)}
    assert check(account(), account(carried), ledger(carried, bad)) == ()
    digests = digests_of(account(), account(carried), ledger(carried, bad))
    assert digests.agree
    assert digests.source != digests.target
    wrong = {INBOX: FolderDigest().plus(TWO._replace(flags=1))}
    assert check(account(), account(carried), ledger(carried, wrong)) != ()


def test_folders_are_compared_in_place_and_in_what_clients_cache() -> None:
    renamed = (TREE[0], folder(SENT, "Gesendet", uidnext=8))
    assert check(account(), account(tree=renamed), ledger())[:2] == (
        "folder 'Sent' is 'Gesendet' at the target",
        "folder 'Sent': uidnext is 9 at the source, 8 at the target",
    )
    assert "only at the target" in check(account(tree=TREE[:1]), account(), ledger())[0]


def test_a_parked_folder_is_a_discrepancy_of_its_own() -> None:
    parked = (TREE[0], folder(SENT, PARKED_PREFIX + "ab"))
    assert any("is still parked" in found for found in check_target(account(tree=parked), ledger()))
