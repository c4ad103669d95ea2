"""What a whole history must satisfy; each rule answers with the smallest witness in words, or nothing.

A mailbox's operations are sorted out by object (item, folder, setting), each object's must have an explanation
(`history.explain`); whatever was seen must have been asked for, once; names and change numbers must never come to mean
something else.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.sim.history import (
    GONE,
    HIDDEN,
    NEVER,
    UNSET,
    History,
    Op,
    Seen,
    explain,
    step_folder,
    step_item,
    step_setting,
)
from tests.sim.world import Violation

ON_ITEMS = ("flag", "move", "copy", "delete", "purge")
CREATES = ("append", "deliver", "copy")


def judge(history: History) -> Iterator[Violation]:
    """Every rule that the history breaks, one mailbox after the other."""
    for mailbox, begin in history.begin.items():
        ops = history.of(mailbox)
        yield from _judge_order(ops)
        yield from _judge_names(begin, ops)
        yield from _judge_items(begin, ops)
        yield from _judge_folders(begin, ops)
        yield from _judge_settings(begin, ops)


def _told(ops: list[Op], *lines: str) -> str:
    return "\n    ".join([*lines, *(str(op) for op in ops)])


# ---- what binds all objects of a mailbox together


def _judge_order(ops: list[Op]) -> Iterator[Violation]:
    """What was answered before another was asked has the lower change number, wherever the mailbox lived."""
    answered = sorted((op for op in ops if op.returned is not None), key=lambda op: op.returned or 0)
    at, highest, last = 0, 0, None
    for op in ops:
        while at < len(answered) and (answered[at].returned or 0) < op.invoked:
            change = _highest_change(answered[at])
            if change > highest:
                highest, last = change, answered[at]
            at += 1
        lowest = _lowest_change(op)
        if last is not None and lowest is not None and lowest < highest + (op.verb != "read"):
            yield Violation(
                "I16 a client sees its write",
                _told([last, op], f"change {highest} had been told before, and then {lowest} was given"),
            )
            return


def _changes(op: Op) -> list[int]:
    if op.outcome != "done":
        return []
    if op.verb in ("append", "deliver"):
        return [op.answer.modseq] if op.answer.item_id is not None else []
    if op.verb in ("move", "copy"):
        return [added.modseq for added in op.answer]
    return [op.answer.head] if op.verb == "read" else []


def _highest_change(op: Op) -> int:
    return max(_changes(op), default=0)


def _lowest_change(op: Op) -> int | None:
    return min(_changes(op), default=None)


def _judge_names(begin: Seen, ops: list[Op]) -> Iterator[Violation]:
    """A (folder, UIDVALIDITY, UID) is one item for ever, an (item, change number) one state."""
    uids: dict[tuple[bytes, int], tuple[bytes, Op | None]] = {}
    validity: dict[bytes, int] = {}
    states: dict[tuple[bytes, int], Any] = {}
    looks: list[tuple[Seen, Op | None]] = [(begin, None)]
    for op in ops:
        if op.outcome != "done":
            continue
        if op.verb == "read":
            looks.append((op.answer, op))
        elif op.verb in ("append", "move", "copy"):
            folder_id = op.args[1]
            told = [op.answer] if op.verb == "append" else op.answer
            looks += [(Seen(0, {added.item_id: _Placed(folder_id, added.uid)}, {}, {}), op) for added in told]
    for seen, op in looks:
        for folder_id, folder in seen.folders.items():
            if validity.setdefault(folder_id, folder.uidvalidity) != folder.uidvalidity:
                yield Violation("I17 names keep their meaning", f"folder {folder.name!r} has another UIDVALIDITY: {op}")
                return
        for item_id, item in seen.items.items():
            known, first = uids.setdefault((item.folder_id, item.uid), (item_id, op))
            if known != item_id:
                yield Violation(
                    "I17 names keep their meaning",
                    f"UID {item.uid} of folder {item.folder_id.hex()[-12:]} was item {known.hex()[-12:]} "
                    f"({first or 'at the beginning'}), and is {item_id.hex()[-12:]} ({op})",
                )
                return
            if not isinstance(item, _Placed) and states.setdefault((item_id, item.modseq), item) != item:
                yield Violation(
                    "I17 names keep their meaning",
                    f"item {item_id.hex()[-12:]} at change {item.modseq} was {states[item_id, item.modseq]}, and is "
                    f"{item} ({op})",
                )
                return


class _Placed:
    """All that an answer tells of a new item."""

    def __init__(self, folder_id: bytes, uid: int) -> None:
        self.folder_id, self.uid = folder_id, uid


# ---- items


def _judge_items(begin: Seen, ops: list[Op]) -> Iterator[Violation]:
    makers, strangers = _who_made(begin, ops)
    yield from strangers
    by_item: dict[bytes, list[Op]] = defaultdict(list)
    for op in ops:
        if op.verb in ON_ITEMS:
            by_item[op.args[0]].append(op)
    shared = [op for op in ops if op.verb == "drop" or (op.verb == "read" and op.outcome == "done")]
    for item_id in {**dict.fromkeys(begin.items), **makers}:
        first = begin.items.get(item_id)
        if first is not None:
            folder = HIDDEN if begin.folders[first.folder_id].hidden else first.folder_id
            state, made = (folder, first.flags, first.keywords), []
        else:
            state, made = NEVER, [makers[item_id]]
        witness = explain(state, [*made, *by_item[item_id], *shared], step_item, item_id)
        if witness is not None:
            about = [op for op in witness if op.verb != "read" and (op.verb != "drop" or op.outcome != "refused")]
            last = max(witness, key=lambda op: op.returned or 0)
            about += [last] if last not in about else []
            yield Violation(
                _rule_of(about, last, item_id),
                _told(about, f"item {item_id.hex()[-12:]}, {_found(last, item_id)}; nothing explains that:"),
            )
            return


def _found(op: Op, item_id: bytes) -> str:
    if op.verb != "read":
        return f"#{op.number} was told {op.answer}"
    item = op.answer.items.get(item_id)
    return f"#{op.number} read it as {item}" if item is not None else f"#{op.number} did not find it"


def _rule_of(about: list[Op], last: Op, item_id: bytes) -> str:
    purged = any(op.verb == "purge" and op.outcome == "done" and op is not last for op in about)
    if last.verb == "read" and item_id in last.answer.items and purged:
        return "I9 a purged item never comes back"
    return "I1 what was acknowledged is at the home"


def _who_made(begin: Seen, ops: list[Op]) -> tuple[dict[bytes, Op], list[Violation]]:
    """Each item with the one operation that made it; and the items that nobody can have made."""
    makers: dict[bytes, Op] = {}
    unsure: dict[bytes, list[Op]] = defaultdict(list)
    hashes = {item_id: item.content_hash for item_id, item in begin.items.items()}
    seen: dict[bytes, tuple[bytes, Any, Op]] = {}
    for op in ops:
        if op.verb == "read" and op.outcome == "done":
            for item_id, item in op.answer.items.items():
                seen.setdefault(item_id, (item.content_hash, item, op))
    for op in ops:
        if op.verb not in CREATES:
            continue
        if op.verb in ("append", "deliver"):
            if op.outcome == "done" and op.answer.item_id is not None:
                makers[op.answer.item_id] = op
                hashes[op.answer.item_id] = op.args[0]
            else:
                unsure[op.args[0]].append(op)
    for op in ops:
        if op.verb == "copy":
            told = [added.item_id for added in op.answer] if op.outcome == "done" else []
            for item_id in told:
                makers[item_id] = _copied(op, seen.get(item_id))
            if op.outcome == "unknown":
                unsure[hashes.get(op.args[0], b"")].append(op)
    strangers = []
    for item_id, (content_hash, item, op) in seen.items():
        if item_id in begin.items or item_id in makers:
            continue
        # One that was never answered may have made it; of several the one whose folder it is in.
        candidates = unsure[content_hash]
        fitting = [maker for maker in candidates if maker.args[1] == item.folder_id] or candidates
        if not fitting:
            others = [str(other) for known, other in makers.items() if hashes.get(known) == content_hash]
            strangers.append(
                Violation(
                    "I15 a delivery is there once",
                    f"item {item_id.hex()[-12:]} was seen by #{op.number}, and nobody can have made it; "
                    f"the same content: {others}",
                )
            )
            break
        maker = fitting[0]
        candidates.remove(maker)
        makers[item_id] = _copied(maker, (content_hash, item, op)) if maker.verb == "copy" else maker
    for content_hash, left in unsure.items():
        for op in left:
            # Acknowledged as a duplicate, and never seen: some earlier attempt must have made it.
            if op.outcome == "done":
                makers[b"unseen " + content_hash] = op
    return makers, strangers


def _copied(op: Op, seen: tuple[bytes, Any, Op] | None) -> Op:
    """The operation as seen from the copy. Nobody changes copies, so its flags are those it is seen with."""
    flags, keywords = (seen[1].flags, seen[1].keywords) if seen is not None else (0, ())
    made = Op(op.number, op.actor, op.mailbox, "copied", (b"", op.args[1], flags, keywords), op.invoked)
    made.returned, made.outcome, made.answer, made.at = op.returned, op.outcome, op.answer, op.at
    return made


# ---- folders and settings


def _judge_folders(begin: Seen, ops: list[Op]) -> Iterator[Violation]:
    made = {op.answer: op for op in ops if op.verb == "create" and op.outcome == "done"}
    reads = [op for op in ops if op.verb == "read" and op.outcome == "done"]
    for folder_id in {**dict.fromkeys(begin.folders), **made}:
        first = begin.folders.get(folder_id)
        state = (first.parent_id, first.name) if first is not None else NEVER
        mine = [op for op in ops if op.verb in ("rename", "drop") and op.args[0] == folder_id]
        creation = [made[folder_id]] if folder_id in made else []
        witness = explain(state, [*creation, *mine, *reads], step_folder, folder_id)
        if witness is not None:
            last = max(witness, key=lambda op: op.returned or 0)
            about = [op for op in witness if op.verb != "read" or op is last]
            found = last.answer.folders.get(folder_id) if last.verb == "read" else last.answer
            yield Violation(
                "I1 what was acknowledged is at the home",
                _told(about, f"folder {folder_id.hex()[-12:]} is {found}; nothing explains that:"),
            )
            return


def _judge_settings(begin: Seen, ops: list[Op]) -> Iterator[Violation]:
    reads = [op for op in ops if op.verb == "read" and op.outcome == "done"]
    for name in sorted({*begin.settings, *(op.args[0] for op in ops if op.verb == "setting")}):
        mine = [op for op in ops if op.verb == "setting" and op.args[0] == name]
        witness = explain(begin.settings.get(name, UNSET), [*mine, *reads], step_setting, name)
        if witness is not None:
            last = max(witness, key=lambda op: op.returned or 0)
            about = [op for op in witness if op.verb != "read" or op is last]
            yield Violation(
                "I1 what was acknowledged is at the home",
                _told(about, f"setting {name!r} is {last.answer.settings.get(name)!r}; nothing explains that:"),
            )
            return


__all__ = ["GONE", "judge"]
