"""Verify: do source, target and the ledger say the same? If not, what is the smallest thing that shows it, in words?

Three accounts, because two that agree may agree by a common mistake: the source's maintained sums, the target's, and
what the ledger's item map says was carried. Bad items are in the source's sums and not in the target's; the map has
their digests beside the others', so they are *explained* to the last bit and not merely counted. So are those that a
rollback finds at its target, the old home, because the move that it takes back left them there.
"""

from collections.abc import Mapping

import attrs

from moverq.endpoints.base import MailboxAccount
from moverq.model.change import FolderState
from moverq.model.digest import MODULUS, FolderDigest, folder_paths, mailbox_digest
from moverq.model.ids import FolderId
from moverq.plan.hierarchy import is_parked
from moverq.words import counted


@attrs.frozen(kw_only=True)
class LedgerAccount:
    """What the ledger believes: the last tree and settings it carried, and per folder what is at the target and what
    could not be moved."""

    folders: tuple[FolderState, ...]
    settings: tuple[tuple[str, str], ...]
    digests: Mapping[FolderId, FolderDigest]
    bad: Mapping[FolderId, FolderDigest]
    kept: Mapping[FolderId, FolderDigest]
    """What only the target has, and keeps."""


@attrs.frozen(kw_only=True)
class Digests:
    """The three numbers of the report, the target's without what only it keeps. With bad items the source's differs
    from the others', and `explained` is the source's less the bad items: that one must agree."""

    source: str
    target: str
    ledger: str
    explained: str

    @property
    def agree(self) -> bool:
        return self.explained == self.target == self.ledger


def check_accounts(
    source: MailboxAccount, target: MailboxAccount, ledger: LedgerAccount, *, exact: bool
) -> tuple[str, ...]:
    """Discrepancies in words, the smallest witness first. `exact`: ids, UIDVALIDITY and UIDNEXT must be equal too."""
    found = [
        *check_tree(source.folders, target.folders, exact=exact),
        *_check_settings(dict(source.settings), dict(target.settings)),
        *_check_parked(target.folders),
        *check_items(dict(source.digests), dict(target.digests), ledger, source.folders),
    ]
    digests = digests_of(source, target, ledger)
    if not found and not digests.agree:
        found.append(f"digests differ: source {digests.explained}, target {digests.target}, ledger {digests.ledger}")
    return tuple(found)


def check_target(target: MailboxAccount, ledger: LedgerAccount) -> tuple[str, ...]:
    """Before the lock: does the target hold what the ledger says? The source may be ahead and is left out."""
    found = [*_check_parked(target.folders)]
    names = {folder.folder_id: folder.name for folder in target.folders}
    have = less(dict(target.digests), ledger.kept)
    for folder_id in sorted({*have, *ledger.digests}):
        found.extend(
            _differ(
                names.get(folder_id, folder_id.hex()),
                have.get(folder_id, FolderDigest()),
                ledger.digests.get(folder_id, FolderDigest()),
                "the target",
                "the ledger",
            )
        )
    return tuple(found)


def digests_of(source: MailboxAccount, target: MailboxAccount, ledger: LedgerAccount) -> Digests:
    at_source = dict(source.digests)
    return Digests(
        source=mailbox_digest(source.folders, at_source, dict(source.settings)),
        explained=mailbox_digest(source.folders, less(at_source, ledger.bad), dict(source.settings)),
        target=mailbox_digest(target.folders, less(dict(target.digests), ledger.kept), dict(target.settings)),
        ledger=mailbox_digest(ledger.folders, ledger.digests, dict(ledger.settings)),
    )


def check_tree(source: tuple[FolderState, ...], target: tuple[FolderState, ...], *, exact: bool) -> tuple[str, ...]:
    """Folder by folder: place, attributes, and with `exact` what clients have cached by."""
    found: list[str] = []
    paths = folder_paths(source)
    there = {folder.folder_id: folder for folder in target}
    there_paths = folder_paths(target)
    for folder in source:
        path = "/".join(paths[folder.folder_id])
        other = there.pop(folder.folder_id, None)
        if other is None:
            found.append(f"folder {path!r} is not at the target")
            continue
        other_path = "/".join(there_paths[folder.folder_id])
        if other_path != path:
            found.append(f"folder {path!r} is {other_path!r} at the target")
        for name in (
            ("special_use", "subscribed", "hidden", "uidvalidity", "uidnext")
            if exact
            else (
                "special_use",
                "subscribed",
                "hidden",
            )
        ):
            mine, other_value = getattr(folder, name), getattr(other, name)
            if mine != other_value:
                found.append(f"folder {path!r}: {name} is {mine!r} at the source, {other_value!r} at the target")
        if dict(folder.attributes) != dict(other.attributes):
            found.append(f"folder {path!r}: its attributes differ")
    found.extend(f"folder {'/'.join(there_paths[extra])!r} is only at the target" for extra in there)
    return tuple(found)


def check_items(
    source: Mapping[FolderId, FolderDigest],
    target: Mapping[FolderId, FolderDigest],
    ledger: LedgerAccount,
    folders: tuple[FolderState, ...],
) -> tuple[str, ...]:
    """Per folder: source less bad items = target less what it keeps = ledger, in count, bytes and sum."""
    paths = folder_paths(folders)
    found: list[str] = []
    at_source, at_target = less(source, ledger.bad), less(target, ledger.kept)
    for folder_id in sorted({*at_source, *at_target, *ledger.digests}):
        name = "/".join(paths.get(folder_id, (folder_id.hex(),)))
        mine, theirs = at_source.get(folder_id, FolderDigest()), at_target.get(folder_id, FolderDigest())
        bad, kept = (of.get(folder_id, FolderDigest()).items for of in (ledger.bad, ledger.kept))
        found.extend(
            _differ(
                name,
                mine,
                theirs,
                "the source" + (f" ({bad} bad left out)" if bad else ""),
                "the target" + (f" ({kept} that only it has left out)" if kept else ""),
            )
        )
        found.extend(_differ(name, theirs, ledger.digests.get(folder_id, FolderDigest()), "the target", "the ledger"))
    return tuple(found)


def _check_settings(source: Mapping[str, str], target: Mapping[str, str]) -> list[str]:
    return [
        f"setting {name!r} differs: {source.get(name)!r} at the source, {target.get(name)!r} at the target"
        for name in sorted({*source, *target})
        if source.get(name) != target.get(name)
    ]


def _check_parked(target: tuple[FolderState, ...]) -> list[str]:
    return [f"folder {folder.name!r} is still parked at the target" for folder in target if is_parked(folder.name)]


def _differ(name: str, one: FolderDigest, other: FolderDigest, one_side: str, other_side: str) -> list[str]:
    if one == other:
        return []
    if one.items != other.items:
        return [f"folder {name!r}: {counted(one.items, 'item')} at {one_side}, {other.items:,} at {other_side}"]
    if one.bytes != other.bytes:
        return [f"folder {name!r}: {counted(one.bytes, 'byte')} at {one_side}, {other.bytes:,} at {other_side}"]
    return [
        f"folder {name!r}: the same {counted(one.items, 'item')} and {counted(one.bytes, 'byte')}, "
        f"but a flag, date or content differs between {one_side} and {other_side}"
    ]


def less(
    digests: Mapping[FolderId, FolderDigest], out: Mapping[FolderId, FolderDigest]
) -> dict[FolderId, FolderDigest]:
    """What is left of each folder without those items."""
    return {
        folder_id: _less(digests.get(folder_id, FolderDigest()), out.get(folder_id, FolderDigest()))
        for folder_id in {*digests, *out}
    }


def _less(digest: FolderDigest, bad: FolderDigest) -> FolderDigest:
    return FolderDigest(digest.items - bad.items, digest.bytes - bad.bytes, (digest.total - bad.total) % MODULUS)
