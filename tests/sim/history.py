"""What clients asked and were told, in one order, and whether it can be explained: linearizability per item.

Every operation is recorded when it is asked (`invoke`) and when it is answered. An answer may be: done, with what was
told; refused, so that nothing happened; or none, so that it may have happened at any time since, or never. A read is an
operation too, and so is the last look at a mailbox at its home.

    per item, folder and setting:  asked │──────│ answered
                                          ▲ somewhere in between it must have taken effect, each answer being what
                                            the item was then: Wing and Gong's search, small since items are

That each object by itself is linearizable is linearizability of them all (Herlihy and Wing, locality), but for verbs
that touch several: deleting a folder is taken for as many deletions at one time. What binds objects together is asked
beside it: change numbers must agree with real time across the whole mailbox, wherever it lived when they were given.

No `await`, no store: values in, witnesses in words out.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import attrs

HIDDEN = "recoverable"
"""Wherever the hidden folder is, items in it are there."""
GONE = ("gone",)
NEVER = ("never",)
UNSET = "unset"

State = Hashable
Step = Callable[[Any, "Op", Any], Any]


@attrs.define(eq=False)
class Op:
    """One operation. `returned` None: never answered. `subject`: the object it is about, where it has been told."""

    number: int
    actor: str
    mailbox: str
    verb: str
    args: tuple[Any, ...]
    invoked: int
    returned: int | None = None
    outcome: str = "unknown"
    answer: Any = None
    at: float = 0.0
    instance: bytes = b""

    def __str__(self) -> str:
        told = {"unknown": "no answer", "refused": "refused"}.get(self.outcome, f"told {_short(self.answer)}")
        args = ", ".join(_short(arg) for arg in self.args)
        return f"#{self.number} at {self.at:.3f} {self.actor} {self.verb}({args}): {told}"


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()[-12:] if len(value) == 16 else repr(value[:24])
    if isinstance(value, Seen):
        return f"{len(value.items)} items at change {value.head}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(_short(one) for one in value) + ")"
    return str(value)


@attrs.frozen
class SeenItem:
    """An item as a client sees it."""

    folder_id: bytes
    uid: int
    modseq: int
    flags: int
    keywords: tuple[str, ...]
    content_hash: bytes


@attrs.frozen
class SeenFolder:
    """A folder as a client sees it."""

    parent_id: bytes
    name: str
    uidvalidity: int
    hidden: bool


@attrs.frozen
class Seen:
    """A mailbox, of one moment."""

    head: int
    items: Mapping[bytes, SeenItem]
    folders: Mapping[bytes, SeenFolder]
    settings: Mapping[str, str]


@attrs.define(eq=False)
class History:
    """Operations in the order they were asked. `begin` is what was there before the first."""

    begin: dict[str, Seen] = attrs.Factory(dict)
    ops: list[Op] = attrs.Factory(list)
    _clock: int = 0

    def invoke(self, actor: str, mailbox: str, verb: str, *args: Any, at: float = 0.0) -> Op:
        self._clock += 1
        op = Op(len(self.ops), actor, mailbox, verb, args, self._clock, at=at)
        self.ops.append(op)
        return op

    def done(self, op: Op, answer: Any) -> None:
        self._end(op, "done")
        op.answer = answer

    def refused(self, op: Op) -> None:
        self._end(op, "refused")

    def _end(self, op: Op, outcome: str) -> None:
        self._clock += 1
        op.returned, op.outcome = self._clock, outcome

    def of(self, mailbox: str) -> list[Op]:
        return [op for op in self.ops if op.mailbox == mailbox and op.outcome != "refused"]


# ---- what an object does with an operation


def step_item(state: State, op: Op, item_id: bytes) -> State | None:
    """The item's next state, or None where the answer could not have been given in this one.

    A state: `NEVER`, `GONE`, or (folder, flags, keywords)."""
    told = op.answer if op.outcome == "done" else None
    live = state not in (NEVER, GONE)
    match op.verb:
        case "append" | "deliver" | "copied":
            if state != NEVER:
                return None
            folder, flags, keywords = op.args[1:4]
            return (folder, flags, keywords)
        case "flag":
            after = (state[0], op.args[1], op.args[2]) if live else state  # type: ignore[index]
            return after if told is None or told == int(after != state) else None
        case "move":
            moves = live and state[0] != op.args[1]  # type: ignore[index]
            after = (op.args[1], *state[1:]) if moves else state  # type: ignore[index]
            return after if told is None or len(told) == int(moves) else None
        case "copy":
            return state if told is None or len(told) == int(live) else None
        case "delete":
            after = state
            if live:
                after = GONE if state[0] == HIDDEN else (HIDDEN, *state[1:])  # type: ignore[index]
            return after if told is None or told == int(live) else None
        case "purge":
            return (GONE if live else state) if told is None or told == int(live) else None
        case "drop":
            inside = live and state[0] == op.args[0]  # type: ignore[index]
            return (HIDDEN, *state[1:]) if inside else state  # type: ignore[index]
        case "read":
            seen = told.items.get(item_id)
            if seen is None:
                return state if not live else None
            folder = HIDDEN if told.folders[seen.folder_id].hidden else seen.folder_id
            return state if state == (folder, seen.flags, seen.keywords) else None
    raise AssertionError(op.verb)


def step_folder(state: State, op: Op, folder_id: bytes) -> State | None:
    """The same of a folder: `NEVER`, `GONE`, or (parent, name)."""
    match op.verb:
        case "create":
            return op.args if state == NEVER else None
        case "rename":
            if state in (NEVER, GONE):
                return state if op.outcome != "done" else None
            return op.args[1:]
        case "drop":
            if state in (NEVER, GONE):
                return state if op.outcome != "done" else None
            return GONE
        case "read":
            seen = op.answer.folders.get(folder_id)
            now = (seen.parent_id, seen.name) if seen is not None else None
            return state if now == (state if state not in (NEVER, GONE) else None) else None
    raise AssertionError(op.verb)


def step_setting(state: State, op: Op, name: str) -> State | None:
    """The same of a setting: its JSON text, or `UNSET`."""
    if op.verb == "setting":
        return op.args[1]  # type: ignore[no-any-return]
    return state if op.answer.settings.get(name, UNSET) == state else None


# ---- the search


def explain(state: State, ops: Sequence[Op], step: Step, subject: Any) -> Sequence[Op] | None:
    """None if some order of `ops`, within when each was asked and answered, explains every answer; else the shortest
    beginning, by real time, that has no explanation: the witness."""
    if _is_explained(state, ops, step, subject):
        return None
    for end in sorted(op.returned for op in ops if op.returned is not None):
        begun = [op if _returned(op) <= end else attrs.evolve(op, **UNANSWERED) for op in ops if op.invoked < end]
        begun = [op for op in begun if op.verb != "read" or op.outcome == "done"]
        if not _is_explained(state, begun, step, subject):
            return begun
    raise AssertionError("the whole has no explanation, and each beginning has one")


def _is_explained(state: State, ops: Sequence[Op], step: Step, subject: Any) -> bool:
    """Depth first, each (set of operations that took effect, state) once; one without an answer may be left out."""
    ordered = sorted(ops, key=lambda op: op.invoked)
    answered = sum(1 << n for n, op in enumerate(ordered) if op.returned is not None)
    seen: set[tuple[int, State]] = set()
    todo: list[tuple[int, State]] = [(0, state)]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        taken, now = node
        if taken & answered == answered:
            return True
        bound = min(_returned(op) for n, op in enumerate(ordered) if not taken >> n & 1)
        for n, op in enumerate(ordered):
            if op.invoked > bound:
                break
            if not taken >> n & 1:
                after = step(now, op, subject)
                if after is not None:
                    todo.append((taken | 1 << n, after))
    return False


UNANSWERED: Mapping[str, Any] = {"returned": None, "outcome": "unknown", "answer": None}


def _returned(op: Op) -> int:
    return op.returned if op.returned is not None else 1 << 60
