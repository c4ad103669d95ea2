"""Reading mail from whatever lies there: the format is found, folder by folder, by what is in it.

    a file          mbox where it begins with a `From ` line (or is called .mbox), otherwise one message
    a folder        Maildir where it has `cur`; otherwise each file as above, and each subfolder as a folder
    with index.jsonl   an export of ours: what the index names, then whatever else lies there

Formats may be mixed, as they are in the homes of real users. Nothing is passed over in silence but the side files
that mail programs are known to keep.
"""

from collections.abc import Iterator
from pathlib import Path

from moverq.mailfiles.eml import INDEX_FILE, UNFINISHED_FILE, eml_item, read_indexed
from moverq.mailfiles.files import check_exists, entries, is_folder, open_file, read_file, read_lists
from moverq.mailfiles.item import MailItem, NotMail, canonical_folder
from moverq.mailfiles.maildir import (
    SIDE_FILES,
    flags_of,
    is_maildir,
    is_subfolder,
    read_maildir_folder,
    subfolder_path,
)
from moverq.mailfiles.mbox import FOLDERS_FILE, folder_name, is_mbox, read_mbox
from moverq.mailfiles.names import decode_name
from moverq.mailfiles.text import looks_like_mail

HEAD_BYTES = 256 << 10
DEPTH_MAX = 100
"""Folders within folders; a path that long no file system can name anyway."""
MESSAGE_ENDINGS = (".eml", ".msg", ".mai", ".rfc822", ".mht", ".emlx")
MBOX_ENDINGS = (".mbox", ".mbx")


def read_mail(path: Path | str) -> Iterator[MailItem | NotMail]:
    """Every message at `path`, and every file there that is none. Blocking, as it is pulled.

    Bounded by: the largest message.

    Raises:
        NotFound: there is nothing at `path`.
        OSError: what is there cannot be seen.
    """
    root = Path(path)
    check_exists(root)
    if root.is_dir():
        yield from _Reader(root, root.resolve()).read(root, ())
    else:
        yield from _Reader(root.parent, root.resolve().parent).read_file(root, ())


class _Reader:
    def __init__(self, path: Path, root: Path) -> None:
        self._path = path
        self._root = root
        """What is read lies below it; see `open_file`."""
        self._seen: set[Path] = set()
        """Files that an index or a side file has accounted for."""
        self._names: dict[Path, tuple[str, ...]] = {}

    def read(self, path: Path, folder: tuple[str, ...]) -> Iterator[MailItem | NotMail]:
        """A folder and all below it."""
        if len(path.parts) - len(self._path.parts) > DEPTH_MAX:
            yield NotMail(str(path), f"more than {DEPTH_MAX} folders deep", may_be_mail=True)
            return
        if (path / INDEX_FILE).is_file():
            yield from read_indexed(path, folder, self._seen, root=self._root)
        if (path / UNFINISHED_FILE).is_file():
            self._seen.add(path / UNFINISHED_FILE)
            yield NotMail(
                str(path), "an export that was cut short: messages, flags and keywords may be missing", may_be_mail=True
            )
        if (path / FOLDERS_FILE).is_file():
            self._seen.add(path / FOLDERS_FILE)
            said = read_lists(path / FOLDERS_FILE, "path", root=self._root)
            self._names |= {path / file: (*folder, *names) for file, names in said.items()}
        maildir = is_maildir(path)
        if maildir:
            yield from read_maildir_folder(path, folder, root=self._root)
        for entry in entries(path):
            if isinstance(entry, NotMail):
                yield entry
                continue
            below = Path(entry.path)
            if not is_folder(entry):
                if below not in self._seen and not (maildir and SIDE_FILES.fullmatch(entry.name)):
                    yield from self.read_file(below, folder)
            elif maildir and entry.name in ("cur", "new", "tmp"):
                continue
            elif maildir and is_subfolder(entry) and (names := subfolder_path(below, root=self._root)):
                yield from self.read(below, (*folder, *names))
            else:
                yield from self.read(below, (*folder, decode_name(entry.name)))

    def read_file(self, path: Path, folder: tuple[str, ...]) -> Iterator[MailItem | NotMail]:
        """One file: an mbox, a message, or no mail."""
        ending = path.suffix.lower()
        try:
            head = self._head(path)
        except OSError as error:
            yield NotMail(str(path), f"cannot be read: {error.strerror or error}", may_be_mail=True)
            return
        if isinstance(head, NotMail):
            yield head
        elif not head:
            yield NotMail(str(path), "empty")
        elif ending not in MESSAGE_ENDINGS and (ending in MBOX_ENDINGS or is_mbox(head)):
            name = canonical_folder(self._names.get(path) or (*folder, folder_name(path.name)))
            yield from read_mbox(path, name, root=self._root)
        elif ending in MESSAGE_ENDINGS and b"\0" in head and not looks_like_mail(head):
            yield NotMail(str(path), "no mail: a binary file")
        elif ending not in MESSAGE_ENDINGS and not looks_like_mail(head):
            yield NotMail(str(path), "no mail: it does not begin with a mail header")
        else:
            yield self._message(path, folder)

    def _message(self, path: Path, folder: tuple[str, ...]) -> MailItem | NotMail:
        found = read_file(path, root=self._root)
        if isinstance(found, NotMail):
            return found
        content, status = found
        flags, keywords = flags_of(path.name, {})
        mtime_ms = status.st_mtime_ns // 1_000_000
        return eml_item(
            path, content, mtime_ms=mtime_ms, folder=canonical_folder(folder), flags=flags, keywords=keywords
        )

    def _head(self, path: Path) -> bytes | NotMail:
        opened = open_file(path, root=self._root)
        if isinstance(opened, NotMail):
            return opened
        with opened as file:
            return file.read(HEAD_BYTES)
