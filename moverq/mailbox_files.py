"""Mail files into a mailbox, and a mailbox into mail files, while it is in use and even while it moves.

    import   read_mail (a thread, pulled) ── batches ── per folder: what is not there yet ── append
    export   items in the order they were made ── fetch ── write_maildir, write_mbox, write_eml (a thread, pulling)

Root does it with the rights of the user whose the files are (`endpoints/files/acting.py`): he makes links among them,
and changes them while they are read or written.

Importing the same files again adds nothing: of each message (SHA-256 of its bytes) a folder gets as many copies as
the files hold, less those that it has. So an import that was cut short is simply asked for again. No list of what was
imported is kept: the mailbox itself is the list, and it is read only for folders that hold something when the import
first comes to them. A message that its user has meanwhile moved elsewhere or deleted comes again.

What it leaves to others: formats (`mailfiles`), and where the mailbox is (`session`).
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from moverq.endpoints.files.acting import ROOT, User, acting_as, user_named, whose_mail
from moverq.endpoints.files.errors import as_move_error
from moverq.endpoints.store import NewItem
from moverq.errors import EndpointUnavailable, MoveError, RequestRefused
from moverq.mailfiles import MailItem, NotMail, read_mail, write_eml, write_maildir, write_mbox
from moverq.session import Place, Session

BATCH_BYTES = 4 << 20
BATCH_ITEMS = 512
PAGE_ITEMS = 512
FORMATS = {"maildir": write_maildir, "mbox": write_mbox, "eml": write_eml}

PATIENCE_S = 30.0
"""How long a verb may wait for its mailbox: a cutover takes milliseconds, an offline move may take hours."""

Path_ = tuple[str, ...]
T = TypeVar("T")


async def patiently(session: Session, verb: Callable[[Place], Awaitable[T]]) -> T:
    """The verb's answer, if it comes within `PATIENCE_S`.

    Raises:
        EndpointUnavailable: it did not; the verb may or may not have happened.
    """
    with trio.move_on_after(PATIENCE_S):
        return await session.use(verb)
    raise EndpointUnavailable(
        endpoint=f"mailbox {session.address}",
        why=f"no answer within {PATIENCE_S:.0f} s; if a move holds it, `moverq move explain {session.address}` says "
        f"why, and the same command goes on later",
    )


def _as_user(path: Path, owner: str | None, run: Callable[[], T], *, doing: str) -> T:
    """What `run` answers, done with the rights of whose the path is, or of `owner`. Blocking.

    Raises:
        RequestRefused: there is no such owner.
        MoveError: what `as_move_error` makes of an `OSError`.
    """
    user = ROOT
    try:
        user = _whose(path, owner)
        with acting_as(user):
            return run()
    except MoveError as error:
        if user.uid and isinstance(error.__cause__, PermissionError):
            error.add_note(f"moverq: root has the rights of {user} there; --owner says whose else")
        raise
    except OSError as error:
        raise as_move_error(error, str(path), doing=doing) from error


def _whose(path: Path, owner: str | None) -> User:
    if os.geteuid() != 0:
        return ROOT  # we act as nobody but ourselves
    if owner is None:
        place = os.fsencode(Path.cwd() / path)
        return whose_mail(place, os.path.join(place, b"cur"))
    try:
        return user_named(owner)
    except KeyError as error:
        raise RequestRefused(why=f"{owner!r} is no user of this system, whose files could be") from error


@attrs.define(kw_only=True)
class Imported:
    """What an import has done so far."""

    items: int = 0
    bytes: int = 0
    present: int = 0
    """Messages that were there already."""
    folders: int = 0
    """Folders that were made."""
    refused: list[NotMail] = attrs.field(factory=list)
    """What is no mail, or could not be read or taken, and why."""


@attrs.define(kw_only=True)
class Exported:
    """What an export has done so far."""

    items: int = 0
    bytes: int = 0
    damaged: list[str] = attrs.field(factory=list)
    """Items whose bytes cannot be had, in sentences."""


async def import_mail(
    session: Session,
    mail: Path | Iterator[MailItem | NotMail],
    *,
    append: bool = False,
    owner: str | None = None,
    done: Imported | None = None,
    on_batch: Callable[[Imported], None] | None = None,
) -> Imported:
    """Every message at the path (or of the iterator) is in the mailbox, at least once; with `append` once more.

    `owner`: with whose rights root reads the path, if not with those of whose it is. `done` is kept up to date, also
    for whom an error comes to.

    Durable: everything counted.
    Cancelled: what was counted is there; again goes on from it.

    Raises:
        NotFound: there is nothing at the path.
        RequestRefused: the quota is used up, or there is no such owner.
        EndpointBroken: whose the path is may not see it.
    """
    done = done if done is not None else Imported()
    source = read_mail(mail) if isinstance(mail, Path) else mail
    take = partial(_take, source)
    if isinstance(mail, Path):
        take = partial(_as_user, mail, owner, take, doing="be read")
    folders = _Folders(session, done)
    while batch := await trio.to_thread.run_sync(take):
        by_folder: dict[Path_, list[MailItem]] = defaultdict(list)
        for entry in batch:
            if isinstance(entry, NotMail):
                done.refused.append(entry)
            else:
                by_folder[entry.folder].append(entry)
        for folder, items in by_folder.items():
            if await folders.find(folder, items[0].source):
                await _append(session, folders, folder, items, append=append, done=done)
            else:
                done.refused += [
                    NotMail(item.source, f"its folder {'/'.join(folder)!r} was refused", may_be_mail=True)
                    for item in items
                ]
        if on_batch is not None:
            on_batch(done)
    return done


async def _append(
    session: Session, folders: "_Folders", folder: Path_, items: Sequence[MailItem], *, append: bool, done: Imported
) -> None:
    fresh = list(items)
    if not append:
        held = await folders.held(folder)
        digests = await trio.to_thread.run_sync(_digests, [item.content for item in items])
        fresh = []
        for item, digest in zip(items, digests, strict=True):
            if held[digest] > 0:
                held[digest] -= 1
            else:
                fresh.append(item)
    new = [
        NewItem(content=i.content, received_ms=i.received_ms, flags=i.flags, keywords=_usable(i.keywords))
        for i in fresh
    ]
    if new:
        folder_id = folders.ids[folder]

        async def add(place: Place) -> None:
            await place.mailbox.append(folder_id, new)

        await patiently(session, add)
    done.items += len(fresh)
    done.bytes += sum(len(item.content) for item in fresh)
    done.present += len(items) - len(fresh)


class _Folders:
    """The mailbox's folders by path, made as they are needed; and what those held that were there before."""

    def __init__(self, session: Session, done: Imported) -> None:
        self._session = session
        self._done = done
        self._known = False
        self._refused: set[Path_] = set()
        self._held: dict[Path_, Counter[bytes]] = {}
        self._items: dict[Path_, int] = {}
        self.ids: dict[Path_, Any] = {}

    async def find(self, path: Path_, source: str) -> bool:
        """The folder is there. False: its name cannot be had; `done.refused` says why, once."""
        if not self._known:
            await self._look()
        if path in self._refused:
            return False
        for depth in range(1, len(path) + 1):
            part = path[:depth]
            if part in self.ids:
                continue
            parent = self.ids[part[:-1]] if depth > 1 else None

            async def make(place: Place, parent: Any = parent, name: str = part[-1]) -> Any:
                return await place.mailbox.create_folder(parent, name)

            try:
                self.ids[part] = await patiently(self._session, make)
            except RequestRefused as error:
                await self._look()
                if part in self.ids:
                    continue  # somebody made it in this moment
                self._refused.add(path)
                self._done.refused.append(NotMail(source, str(error), may_be_mail=True))
                return False
            self._items[part] = 0
            self._done.folders += 1
        return True

    async def held(self, path: Path_) -> Counter[bytes]:
        """How often the folder held each message when the import first came to it. O(its bytes), once."""
        if path not in self._held:
            found: Counter[bytes] = Counter()
            after = 0
            folder_id = self.ids[path]

            async def read(place: Place) -> tuple[int, list[bytes]]:
                instance = place.mailbox.instance
                rows = await place.database.folder_items(instance, folder_id, after_uid=after, limit=PAGE_ITEMS)
                fetched = await place.database.fetch(instance, rows)
                return rows[len(fetched) - 1].uid if rows else 0, [item.content or b"" for item in fetched]

            while self._items[path]:
                last, contents = await patiently(self._session, read)
                if not contents:
                    break
                found.update(await trio.to_thread.run_sync(_digests, contents))
                after = last
            self._held[path] = found
        return self._held[path]

    async def _look(self) -> None:
        async def account(place: Place) -> Any:
            return await place.database.account(place.mailbox.instance)

        _, folders, _ = await patiently(self._session, account)
        paths = folder_paths(folders)
        for folder in folders:
            if not folder.hidden:
                self.ids.setdefault(paths[folder.folder_id], folder.folder_id)
                self._items.setdefault(paths[folder.folder_id], folder.items)
        self._known = True


def folder_paths(folders: Iterable[Any]) -> dict[bytes, Path_]:
    """Each folder's names from the top. Of a tree, as the store keeps it."""
    by_id = {folder.folder_id: folder for folder in folders}

    def path(folder_id: bytes) -> Path_:
        folder = by_id[folder_id]
        return (*path(folder.parent_id), folder.name) if folder.parent_id else (folder.name,)

    return {folder_id: path(folder_id) for folder_id in by_id}


async def export_mail(
    session: Session,
    path: Path,
    *,
    form: str,
    owner: str | None = None,
    done: Exported | None = None,
    on_batch: Callable[[Exported], None] | None = None,
) -> Exported:
    """A new folder at the path holds every item of the mailbox that was there from beginning to end, each once.

    Bytes, dates, flags and keywords go along; recoverable (deleted) items and empty folders do not. `owner`: with whose
    rights root writes, and whose the files are, if not whose the folder is that they are made in.

    Raises:
        RequestRefused: there is something at the path, or no such format or owner.
        EndpointBroken: it cannot be written.
    """
    if form not in FORMATS:
        raise RequestRefused(why=f"there is no format {form}; there are {', '.join(FORMATS)}")
    write = FORMATS[form]
    done = done if done is not None else Exported()
    run = partial(write, path, _pulled(session, done, on_batch))
    await trio.to_thread.run_sync(partial(_as_user, path, owner, run, doing="be written"))
    return done


def _pulled(session: Session, done: Exported, on_batch: Callable[[Exported], None] | None) -> Iterator[MailItem]:
    """The mailbox's items, for a thread: each batch is fetched by the loop when the thread asks for it."""
    listing = _Listing(session, done)
    while (items := trio.from_thread.run(listing.read)) is not None:
        yield from items
        if on_batch is not None:
            on_batch(done)


class _Listing:
    """The items of a mailbox by id, each once. It goes on where the mailbox moves meanwhile: ids stay."""

    def __init__(self, session: Session, done: Exported) -> None:
        self._session = session
        self._done = done
        self._after: bytes | None = b""

    async def read(self) -> list[MailItem] | None:
        """The next ones; None where there are no more."""
        return await patiently(self._session, self._read)

    async def _read(self, place: Place) -> list[MailItem] | None:
        if self._after is None:
            return None
        instance, database = place.mailbox.instance, place.database
        page = await database.page(instance, after=self._after, limit=PAGE_ITEMS)
        _, folders, _ = await database.account(instance)
        paths = folder_paths(folders)
        hidden = {folder.folder_id for folder in folders if folder.hidden}
        items = []
        for item in page.items:
            row = item.row
            if row.folder_id in hidden or row.folder_id not in paths:
                continue
            path = paths[row.folder_id]
            if item.content is not None:
                items.append(MailItem(path, item.content, row.received_ms, row.flags, row.keywords, row.item_id.hex()))
                self._done.items += 1
                self._done.bytes += row.size
            elif item.damage is not None:
                self._done.damaged.append(f"{'/'.join(path)}, UID {row.uid}: {item.damage}")
        self._after = page.following
        return items


def _take(source: Iterator[MailItem | NotMail]) -> list[MailItem | NotMail]:
    """The next batch; blocking. Empty: there is no more."""
    batch: list[MailItem | NotMail] = []
    size = 0
    for entry in source:
        batch.append(entry)
        size += len(entry.content) if isinstance(entry, MailItem) else 0
        if size >= BATCH_BYTES or len(batch) >= BATCH_ITEMS:
            break
    return batch


def _digests(contents: Sequence[bytes]) -> list[bytes]:
    return [hashlib.sha256(content).digest() for content in contents]


def _usable(keywords: Iterable[str]) -> tuple[str, ...]:
    """Keywords that a mailbox takes: not empty, at most 256 bytes."""
    return tuple(word for word in keywords if 0 < len(word.encode(errors="replace")) <= 256)


__all__ = ["FORMATS", "Exported", "Imported", "export_mail", "folder_paths", "import_mail"]
