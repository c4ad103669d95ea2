"""Maildir and Maildir++: a file a message, flags in its name.

    <path>/cur,new,tmp                           INBOX
    <path>/.Sent/cur,…   <path>/.A.B/cur,…       Sent; B in A (names in modified UTF-7)
    <path>/A/cur,…                               the file system layout some servers use is read as well
    cur/1700000000.M7.moverq,S=512,W=512:2,FSab  size, size as mail, flags; a, b are lines of `dovecot-keywords`

`S=` and `W=` are Maildir++'s sizes on disk and as mail (CRLF). Where they are equal the bytes are exact, and are not
touched; so a message with bare LFs alone, which the line-end rule would change, survives export and import. What the
names cannot say stands in files of our own: `moverq-folder.json` (the true path of an oddly named folder) and
`moverq-keywords.jsonl` (from the 27th keyword on, and such as no keyword file can hold).
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from moverq.mailfiles.files import (
    broken,
    entries,
    is_folder,
    make_target,
    read_file,
    read_lists,
    read_side_file,
    sync_folder,
    sync_tree,
    write_file,
)
from moverq.mailfiles.item import MailItem, NotMail, canonical_folder
from moverq.mailfiles.names import decode_name, encode_utf7, unique
from moverq.mailfiles.text import split_from_line, with_crlf
from moverq.model.change import INBOX, Flag

LETTERS = {
    "S": Flag.SEEN,
    "R": Flag.ANSWERED,
    "F": Flag.FLAGGED,
    "T": Flag.DELETED,
    "D": Flag.DRAFT,
}
PASSED = "$Forwarded"
"""What the letter P ("passed on") is called as a keyword."""
KEYWORD_LETTERS = "abcdefghijklmnopqrstuvwxyz"
KEYWORDS_FILE = "dovecot-keywords"
MORE_KEYWORDS_FILE = "moverq-keywords.jsonl"
FOLDER_FILE = "moverq-folder.json"
INFO = re.compile(r"[:;!]2,([A-Za-z]*)$")
MAIL_SIZE = re.compile(r",W=(\d+)")
SIZES = re.compile(r",[SW]=\d+")
RENAMED_MAX = 3
"""How often a file is looked for that has another name each time it is to be read."""
PLAIN_KEYWORD = re.compile(r"[!-~]+")
SIDE_FILES = re.compile(
    r"dovecot.*|\.dovecot.*|courier.*|maildir(folder|size)|subscriptions|\.?mailboxlist|moverq-.*\.jsonl?|"
    r"\.uidvalidity|\.mbsyncstate.*|\.isyncuidmap.*|\.sieve.*|sieve.*|\.?lock"
)
"""What mail programs keep beside the mail: known, and no mail."""


def is_maildir(path: Path) -> bool:
    """`cur` makes a Maildir; version control and archives lose the folders that are empty."""
    return (path / "cur").is_dir() or ((path / "new").is_dir() and (path / "tmp").is_dir())


def read_maildir_folder(path: Path, folder: tuple[str, ...], *, root: Path) -> Iterator[MailItem | NotMail]:
    """The messages of one Maildir folder, without those below it. `root`: see `open_file`."""
    keywords = _read_keywords(path / KEYWORDS_FILE, root)
    more = read_lists(path / MORE_KEYWORDS_FILE, "keywords", root=root)
    folder = canonical_folder(folder)
    listed = _listed(path)
    named = _Named(path, listed)
    for entry in listed:
        if isinstance(entry, NotMail):
            yield entry
            continue
        if entry.name.startswith("."):
            yield NotMail(entry.path, "a hidden file, which is no mail in a Maildir")
            continue
        file = Path(entry.path)
        found = read_file(file, root=root)
        for _ in range(RENAMED_MAX):
            if not isinstance(found, NotMail) or os.path.lexists(file):
                break
            file = named.now(file)
            found = read_file(file, root=root)
        if str(file) != entry.path and named.has_its_turn(file):
            continue
        if isinstance(found, NotMail):
            yield found
            continue
        content, status = found
        if not content and mail_size(file.name) != 0:
            yield NotMail(str(file), "empty")
            continue
        flags, names = flags_of(file.name, keywords)
        yield MailItem(
            folder=folder,
            content=as_mail(content, file.name),
            received_ms=status.st_mtime_ns // 1_000_000,
            flags=flags,
            keywords=tuple(sorted({*names, *more.get(base_name(file.name), ())})),
            source=str(file),
        )
    if (path / "tmp").is_dir():
        for entry in entries(path / "tmp"):
            yield entry if isinstance(entry, NotMail) else NotMail(entry.path, "a delivery that was never finished")


def _listed(path: Path) -> list[os.DirEntry[str] | NotMail]:
    """What is in `cur`, and then in `new`. Looked for the other way round: what a mail program moves from `new` to
    `cur` meanwhile is met at one of them at least."""
    found: list[os.DirEntry[str] | NotMail] = []
    for sub in ("new", "cur"):
        if (path / sub).is_dir():
            found = [*entries(path / sub), *found]
    return found


class _Named:
    """What the files of a folder are called now, by what stays of a name while a mail program changes the flags."""

    def __init__(self, path: Path, listed: list[os.DirEntry[str] | NotMail]) -> None:
        self._path = path
        self._listed = {entry.path for entry in listed if not isinstance(entry, NotMail)}
        self._files: dict[str, Path] = {}
        self._stamp: tuple[int, ...] = ()

    def has_its_turn(self, file: Path) -> bool:
        """It was listed under this name as well: it moved on between the two listings."""
        return str(file) in self._listed

    def now(self, file: Path) -> Path:
        """The file's name now; the same one where it has gone. The folder is listed again only after a change."""
        stamp = tuple(os.stat(sub).st_mtime_ns for sub in (self._path / "new", self._path / "cur") if sub.is_dir())
        if stamp != self._stamp:
            self._stamp = stamp
            entries_now = (entry for entry in _listed(self._path) if not isinstance(entry, NotMail))
            self._files = {_stem(entry.name): Path(entry.path) for entry in entries_now}
        return self._files.get(_stem(file.name), file)


def _stem(name: str) -> str:
    return SIZES.sub("", base_name(name))


def subfolder_path(path: Path, *, root: Path) -> tuple[str, ...] | None:
    """The folder that `path` is, below the Maildir it lies in; None where it is none."""
    return _true_path(path, root) or subfolder_names(path.name)


def subfolder_names(name: str) -> tuple[str, ...] | None:
    """The path that a Maildir++ folder's file name says, `.A.B` → (A, B); None where it is none."""
    if len(name) < 2 or name[0] != "." or name == "..":
        return None
    return tuple(decode_name(level) for level in name[1:].split("."))


def is_subfolder(entry: os.DirEntry[str]) -> bool:
    return is_folder(entry) and entry.name.startswith(".") and is_maildir(Path(entry.path))


def base_name(name: str) -> str:
    """A message's name without its flags: what stays when they change."""
    return INFO.sub("", name)


def mail_size(name: str) -> int | None:
    match = MAIL_SIZE.search(name)
    return int(match.group(1)) if match else None


def flags_of(name: str, keywords: dict[str, str]) -> tuple[int, tuple[str, ...]]:
    """Flags and keywords as the name's info part says."""
    match = INFO.search(name)
    if match is None:
        return 0, ()
    flags, names = Flag(0), []
    for letter in match.group(1):
        if letter in LETTERS:
            flags |= LETTERS[letter]
        elif letter == "P":
            names.append(PASSED)
        elif letter in keywords:
            names.append(keywords[letter])
    return int(flags), tuple(sorted(set(names)))


def as_mail(content: bytes, name: str) -> bytes:
    """The message in a Maildir file: exact where the name says that nothing is to be added, else by the rule."""
    if mail_size(name) == len(content):
        return content
    return with_crlf(split_from_line(content)[1])


def _true_path(path: Path, root: Path) -> tuple[str, ...] | None:
    """The path our own side file gives, if the folder still has the name it was written for."""
    try:
        said = json.loads(read_side_file(path / FOLDER_FILE, root=root))
        if said["name"] == path.name and said["path"] and all(isinstance(name, str) for name in said["path"]):
            return tuple(said["path"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _read_keywords(path: Path, root: Path) -> dict[str, str]:
    found = {}
    text = read_side_file(path, root=root).decode(errors="backslashreplace")
    for line in text.replace("\r\n", "\n").split("\n"):
        number, _, name = line.partition(" ")
        if number.isdecimal() and len(number) <= 4 and int(number) < len(KEYWORD_LETTERS) and name:
            found[KEYWORD_LETTERS[int(number)]] = name
    return found


def write_maildir(path: Path | str, items: Iterable[MailItem], *, sync: bool = True) -> int:
    """A new Maildir++ with these messages; returns how many. Blocking.

    Durable: on return, all of it; and each message is whole wherever it is cut short (tmp, fsync, rename).
    Bounded by: one message, and a name for each folder.

    Raises:
        RequestRefused: `path` is not empty.
        EndpointBroken: the disk refuses.
    """
    root = Path(path)
    make_target(root)
    writer = _Writer(root, sync=sync)
    try:
        for item in items:
            writer.write(item)
        writer.finish()
    except OSError as error:
        raise broken(root, error) from error
    return writer.count


class _Writer:
    def __init__(self, root: Path, *, sync: bool) -> None:
        self._root = root
        self._sync = sync
        self._folders: dict[tuple[str, ...], _Folder] = {}
        self._taken: set[str] = set()
        self.count = 0
        self._folder((INBOX,))

    def write(self, item: MailItem) -> None:
        self.count += 1
        self._folder(canonical_folder(item.folder)).write(item, self.count)

    def finish(self) -> None:
        for folder in self._folders.values():
            folder.finish()
        if self._sync:
            sync_tree(self._root)

    def _folder(self, names: tuple[str, ...]) -> "_Folder":
        if names not in self._folders:
            self._folders[names] = _Folder(self._place(names), names, sync=self._sync)
        return self._folders[names]

    def _place(self, names: tuple[str, ...]) -> Path:
        if names == (INBOX,):
            return self._root
        # A level may hold what Maildir++ has another use for, or a slash that became one in modified UTF-7.
        levels = [encode_utf7(re.sub(r"[\x00-\x1f\x7f./\\]", "_", name) or "_") for name in names]
        return self._root / unique("." + ".".join(levels), self._taken)


class _Folder:
    def __init__(self, path: Path, names: tuple[str, ...], *, sync: bool) -> None:
        self._path = path
        self._sync = sync
        self._letters: dict[str, str] = {}
        self._more: list[bytes] = []
        for sub in ("cur", "new", "tmp"):
            (path / sub).mkdir(parents=True)
        if names != (INBOX,):
            write_file(path / "maildirfolder", b"", sync=False)
            if subfolder_names(path.name) != names:
                said = {"name": path.name, "path": names}
                write_file(path / FOLDER_FILE, json.dumps(said).encode() + b"\n", sync=sync)

    def write(self, item: MailItem, number: int) -> None:
        size = len(item.content)
        base = f"{item.received_ms // 1000}.M{number:09}.moverq,S={size},W={size}"
        letters = [letter for letter, flag in LETTERS.items() if item.flags & flag]
        left = []
        for keyword in item.keywords:
            letter = "P" if keyword == PASSED else self._letter(keyword)
            if letter:
                letters.append(letter)
            else:
                left.append(keyword)
        if left:
            self._more.append(json.dumps({"file": base, "keywords": left}).encode() + b"\n")
        temporary = self._path / "tmp" / base
        write_file(temporary, item.content, sync=self._sync)
        os.utime(temporary, ns=(item.received_ms * 1_000_000, item.received_ms * 1_000_000))
        os.rename(temporary, self._path / "cur" / f"{base}:2,{''.join(sorted(letters))}")

    def finish(self) -> None:
        if self._letters:
            lines = [f"{number} {keyword}\n" for number, keyword in enumerate(self._letters)]
            write_file(self._path / KEYWORDS_FILE, "".join(lines).encode(), sync=self._sync)
        if self._more:
            write_file(self._path / MORE_KEYWORDS_FILE, b"".join(self._more), sync=self._sync)
        if self._sync:
            sync_folder(self._path / "cur")

    def _letter(self, keyword: str) -> str | None:
        if keyword not in self._letters:
            if len(self._letters) == len(KEYWORD_LETTERS) or not PLAIN_KEYWORD.fullmatch(keyword):
                return None
            self._letters[keyword] = KEYWORD_LETTERS[len(self._letters)]
        return self._letters[keyword]
