"""Sees every durable effect at the moment it happens, and tells the checkers.

It looks with connections of its own: at a database after each blocking call on it, at the ledger after each of its
writes, at the directory after each verb; what differs from the last look are the events. Blocking work runs inline, so
nothing can happen between an effect and the look at it.

    guard_changed     an instance was made, turned, claimed, soft-deleted, destroyed
    register_changed  a mailbox has another home or epoch
    fact_changed      a fact was written or forgotten, a request taken over or removed
    database_changed  something was committed in this database
    verb_ended        a mover's verb was accepted: with which token, since when
    client_gave_up    a client was not answered for as long as clients wait
"""

import json
from typing import Any, Protocol

import apsw
import attrs

from moverq.directory.directory import Register
from moverq.endpoints.base import Home
from moverq.ledger.codec import Codec
from moverq.model.facts import Fact
from moverq.model.ids import InstanceId, MailboxId
from moverq.model.request import MoveRequest
from store.catalogue.schema import open_catalogue
from store.layout import Layout
from store.records import Mode
from tests.sim.history import Op, Seen, SeenFolder, SeenItem
from tests.sim.scenario import DATABASES
from tests.sim.seeded import CODEC
from tests.sim.world import World


@attrs.frozen
class Instance:
    """An instance's guard, as its catalogue has it."""

    mailbox_id: bytes
    mode: Mode
    token: int
    head: int
    keep_until_ms: int | None


@attrs.define(eq=False)
class Request:
    """A request as the ledger has it. `facts` by kind, with the token that wrote each."""

    request: MoveRequest
    token: int
    wishes_remove: bool
    wishes_finish: bool
    stage: str
    facts: dict[str, tuple[int, Fact]]


@attrs.define(eq=False)
class Verb:
    """A mover's verb, from its beginning."""

    database: str
    instance: bytes
    begun: int
    was_there: bool


class Checker(Protocol):
    """A rule. It looks at what happens, and calls `world.violate` where it does not hold."""

    rule: str

    def guard_changed(self, home: Home, before: Instance | None, after: Instance | None) -> None: ...
    def register_changed(self, mailbox_id: MailboxId, before: Register, after: Register) -> None: ...
    def fact_changed(self, request: Request, kind: str, token: int, fact: Fact | None) -> None: ...
    def request_gone(self, request: Request) -> None: ...
    def database_changed(self, database: str) -> None: ...
    def verb_ended(self, home: Home, verb: str, token: int, begun: int, ended: int) -> None: ...
    def client_gave_up(self, address: str, op: Op) -> None: ...
    def over(self) -> None: ...


@attrs.define(eq=False)
class Observer:
    """See the module."""

    world: World
    checkers: list[Any] = attrs.Factory(list)
    instances: dict[Home, Instance] = attrs.Factory(dict)
    registers: dict[MailboxId, Register] = attrs.Factory(dict)
    requests: dict[str, Request] = attrs.Factory(dict)
    ledgers: list[Any] = attrs.Factory(list)
    moment: int = 0
    _codec: Codec = CODEC
    _catalogues: dict[str, apsw.Connection] = attrs.Factory(dict)
    _ledger: apsw.Connection | None = None
    _seen_versions: dict[str, int] = attrs.Factory(dict)
    _stood: dict[str, list[int]] = attrs.Factory(dict)
    """The place in its log at which each catalogue stood."""

    # ---- looking

    def open(self) -> None:
        for name in DATABASES:
            self._catalogues[name] = open_catalogue(Layout(self.world.machine.path(name)).catalogue)
            self.look_at(name)

    def close(self) -> None:
        for each in self._catalogues.values():
            each.close()
        self._catalogues.clear()
        self._seen_versions.clear()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _is_news(self, name: str, db: apsw.Connection) -> bool:
        version = db.pragma("data_version")
        if self._seen_versions.get(name) == version:
            return False
        self._seen_versions[name] = version
        return True

    def look_at(self, name: str) -> None:
        """A blocking call on this database has ended."""
        db = self._catalogues.get(name)
        if db is None or not self._is_news(name, db):
            return
        ((*stands,),) = db.execute("SELECT generation, offset FROM meta")
        if stands < self._stood.get(name, []):
            return  # it fell back with the power, and the log has not been replayed yet
        self._stood[name] = stands
        self.moment += 1
        found = {
            Home(name, InstanceId(instance)): Instance(mailbox_id, Mode(mode), token, head, keep)
            for instance, mailbox_id, mode, token, head, keep in db.execute(
                "SELECT instance, mailbox_id, mode, token, head, keep_until_ms FROM mailbox"
            )
        }
        changed = [
            (home, self.instances.get(home), found.get(home))
            for home in {**dict.fromkeys(h for h in self.instances if h.database == name), **found}
            if self.instances.get(home) != found.get(home)
        ]
        for home, before, after in changed:
            if after is None:
                del self.instances[home]
            else:
                self.instances[home] = after
            if before is not None and after is not None and attrs.evolve(before, head=after.head) == after:
                self.world.say(name, home.instance.hex()[-4:], "head", after.head)
                if after.head < before.head:
                    self.world.violate(
                        "I17 names keep their meaning", f"the head of {home} fell from {before.head} to {after.head}"
                    )
                continue
            self.world.say(name, home.instance.hex()[-4:], _guard(before), "->", _guard(after))
            for checker in self.checkers:
                checker.guard_changed(home, before, after)
        for checker in self.checkers:
            checker.database_changed(name)

    def look_at_ledger(self) -> None:
        """A blocking call on the ledger has ended."""
        if self._ledger is None:
            path = self.world.root / "ledger.sqlite"
            if not path.exists():
                return
            self._ledger = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs="cksmvfs")
        if not self._is_news("ledger", self._ledger):
            return
        try:
            rows = list(
                self._ledger.execute(
                    "SELECT r.request_id, r.request, r.token, r.wish_remove, r.wish_finish, r.stage, f.kind, f.token, "
                    "f.payload FROM requests r LEFT JOIN facts f ON f.request_id = r.request_id"
                )
            )
        except apsw.SQLError:
            return  # being made
        found: dict[str, dict[str, tuple[int, bytes]]] = {}
        for request_id, packed, token, remove, finish, stage, kind, fact_token, payload in rows:
            known = self.requests.get(request_id)
            if known is None:
                known = Request(self._codec.unpack(packed, MoveRequest), token, False, False, stage, {})
                self.requests[request_id] = known
            known.token, known.wishes_remove, known.wishes_finish = token, bool(remove), bool(finish)
            if known.stage != stage:
                self.world.say(request_id[:4], known.stage, "->", stage)
                known.stage = stage
            facts = found.setdefault(request_id, {})
            if kind is not None:
                facts[kind] = (fact_token, payload)
        self._tell_facts(found)

    def _tell_facts(self, found: dict[str, dict[str, tuple[int, bytes]]]) -> None:
        for request_id in list(self.requests):
            known = self.requests[request_id]
            if request_id not in found:
                self.world.say(request_id[:4], "removed")
                del self.requests[request_id]
                for checker in self.checkers:
                    checker.request_gone(known)
                continue
            changed: list[tuple[str, int, Fact | None]] = []
            for kind in [kind for kind in known.facts if kind not in found[request_id]]:
                changed.append((kind, known.token, None))
                del known.facts[kind]
            for kind, (token, payload) in found[request_id].items():
                fact = self._codec.unpack_fact(kind, payload)
                assert fact is not None
                if known.facts.get(kind) != (token, fact):
                    changed.append((kind, token, fact))
                    known.facts[kind] = token, fact
            for kind, token, fact in changed:
                self.world.say(request_id[:4], kind, token, "written" if fact is not None else "forgotten")
                for checker in self.checkers:
                    checker.fact_changed(known, kind, token, fact)

    def look_at_directory(self, who: str, verb: str) -> None:
        """A verb of the directory has ended."""
        for mailbox_id, recipient in self.world.directory._recipients.items():
            before, after = self.registers.get(mailbox_id), recipient.register
            if before == after:
                continue
            self.registers[mailbox_id] = after
            if before is not None:
                self.world.say(who, verb, before, "->", after)
                for checker in self.checkers:
                    checker.register_changed(mailbox_id, before, after)

    # ---- verbs of movers

    def begin_verb(self, database: str, instance: bytes) -> Verb:
        self.moment += 1
        there = Home(database, InstanceId(instance)) in self.instances
        return Verb(database, instance, self.moment, there)

    def end_verb(self, verb: Verb, name: str, *, token: int) -> None:
        self.moment += 1
        self.world.say(verb.database, verb.instance.hex()[-4:], name, token)
        if name in ("remove", "purge") and not verb.was_there:
            return  # of what is gone already: nothing happened
        for checker in self.checkers:
            checker.verb_ended(Home(verb.database, InstanceId(verb.instance)), name, token, verb.begun, self.moment)

    def client_gave_up(self, op: Op) -> None:
        """The patience of who asked for this is over."""
        for checker in self.checkers:
            checker.client_gave_up(op.mailbox, op)

    def ring_ledgers(self, writer: object) -> None:
        """Whoever else has the ledger open sees that somebody has written."""
        for each in self.ledgers:
            if each is not writer:
                each.ring()

    # ---- what is there

    def instance_at(self, home: Home) -> Instance | None:
        return self.instances.get(home)

    def is_target(self, database: str) -> bool:
        """Is a mailbox being moved into this database now?"""
        return any(
            request.request.target_database == database and "committed" not in request.facts
            for request in self.requests.values()
        )

    def is_being_copied(self, address: str) -> bool:
        """Is this mailbox in the middle of its copy now?"""
        return any(
            request.request.address == address
            and "seed_watermark" in request.facts
            and "commit_intent" not in request.facts
            and "committed" not in request.facts
            for request in self.requests.values()
        )

    def seen(self, home: Home) -> Seen:
        """All that a client could see of an instance, and in what order changes came."""
        return look(self._catalogues[home.database], home.instance)

    def rows(self, home: Home) -> dict[bytes, tuple[Any, ...]]:
        """Items with all that both sides of a move keep."""
        db = self._catalogues[home.database]
        return {
            row[0]: row[1:]
            for row in db.execute(
                "SELECT i.item_id, f.folder_id, i.uid, i.modseq, i.received_ms, i.size, i.content_hash, i.flags, "
                "i.keywords, i.item_class, i.properties FROM item i JOIN folder f ON f.no = i.folder "
                "JOIN mailbox m ON m.no = i.mailbox WHERE m.instance = ?",
                (home.instance,),
            )
        }

    def messages(self, database: str) -> list[tuple[bytes, bytes, tuple[bytes, int]]]:
        """Every item of a database: its instance, its id, and what makes it this message: content and date."""
        return [
            (instance, item_id, (content_hash, received_ms))
            for instance, item_id, content_hash, received_ms in self._catalogues[database].execute(
                "SELECT m.instance, i.item_id, i.content_hash, i.received_ms FROM item i "
                "JOIN mailbox m ON m.no = i.mailbox"
            )
        ]

    def tombstones(self, home: Home) -> set[bytes]:
        db = self._catalogues[home.database]
        return {
            row[0]
            for row in db.execute(
                "SELECT t.id FROM tombstone t JOIN mailbox m ON m.no = t.mailbox WHERE m.instance = ?",
                (home.instance,),
            )
        }

    def delivery_keys(self, home: Home) -> set[tuple[bytes, bytes]]:
        db = self._catalogues[home.database]
        return set(
            db.execute(
                "SELECT k.key, k.content_digest FROM delivery_key k JOIN mailbox m ON m.no = k.mailbox "
                "WHERE m.instance = ?",
                (home.instance,),
            )
        )


def look(db: apsw.Connection, instance: bytes) -> Seen:
    """A mailbox as a client sees it, of one moment: the caller has a transaction open, or nobody else runs."""
    ((no, head),) = db.execute("SELECT no, head FROM mailbox WHERE instance = ?", (instance,))
    folders = {
        folder_id: SeenFolder(parent_id, name, uidvalidity, bool(hidden))
        for folder_id, parent_id, name, uidvalidity, hidden in db.execute(
            "SELECT folder_id, parent_id, name, uidvalidity, hidden FROM folder WHERE mailbox = ?", (no,)
        )
    }
    items = {
        item_id: SeenItem(
            folder_id, uid, modseq, flags, tuple(json.loads(keywords)) if keywords != "[]" else (), content_hash
        )
        for item_id, folder_id, uid, modseq, flags, keywords, content_hash in db.execute(
            "SELECT i.item_id, f.folder_id, i.uid, i.modseq, i.flags, i.keywords, i.content_hash "
            "FROM item i JOIN folder f ON f.no = i.folder WHERE i.mailbox = ?",
            (no,),
        )
    }
    settings = dict(db.execute("SELECT name, value FROM setting WHERE mailbox = ? AND value IS NOT NULL", (no,)))
    return Seen(head, items, folders, settings)


def _guard(one: Instance | None) -> str:
    if one is None:
        return "nothing"
    return f"{one.mode.name}/{one.token}" + ("/removed" if one.keep_until_ms is not None else "")
