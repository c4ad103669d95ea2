"""The corpus of real mail, where it lies beside the project: `../shared/corpus/mail.tar.xz`, or where `MOVERQ_CORPUS`
says. Never copied into it."""

import os
import tarfile
from collections import Counter
from pathlib import Path

import store
from moverq.mailmaker import make_mail
from moverq.root import Root

BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "corpus" / "mail.tar.xz"
CORPUS = Path(os.environ.get("MOVERQ_CORPUS", BESIDE))
MISSING = f"the corpus of real mail is not at {CORPUS}"


def unpack_corpus(folder: Path) -> None:
    """Its files are in `folder`: plain files and folders alone, below it.

    Looked at here, because the extraction filters came with Python 3.11.4; and the filter set, because later ones warn
    of an archive without.
    """
    with tarfile.open(CORPUS) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        for member in archive:
            assert member.isfile() or member.isdir(), member.name
            assert (folder / member.name).resolve().is_relative_to(folder.resolve()), member.name
            archive.extract(member, folder)


def real_folder_names(corpus: Path, number: int) -> list[tuple[str, ...]]:
    """The most used of the real folder paths, and all whose name differs from another's only in case or blanks."""
    (names,) = corpus.rglob("folder-names.tsv")
    paths = []
    for line in names.read_text(encoding="utf-8", errors="surrogateescape").splitlines()[1:]:
        path = tuple(part for part in line.split("\t", 1)[1].split("\\") if part)
        if path and all(ch.isprintable() for part in path for ch in part):
            paths.append(path)
    alike = Counter(tuple(part.strip().lower() for part in path) for path in paths)
    odd = [path for path in paths if alike[tuple(part.strip().lower() for part in path)] > 1]
    return list(dict.fromkeys(paths[:number] + odd[:number]))


async def append_to_odd_folders(root: Root, address: str, paths: list[tuple[str, ...]]) -> None:
    """A message in each of these folders, which are made."""
    place = await root.session(address).place()
    _, folders, _ = await place.database.account(place.mailbox.instance)
    made: dict[tuple[str, ...], store.FolderId] = {}
    for path, mail in zip(paths, make_mail(3, len(paths), 600), strict=True):
        for depth in range(1, len(path) + 1):
            if path[:depth] not in made:
                parent = made[path[: depth - 1]] if depth > 1 else None
                there = [f.folder_id for f in folders if (f.parent_id or None, f.name) == (parent, path[depth - 1])]
                made[path[:depth]] = there[0] if there else await place.mailbox.create_folder(parent, path[depth - 1])
        new = store.NewItem(
            content=mail.content, received_ms=mail.received_ms, flags=mail.flags, keywords=mail.keywords
        )
        await place.mailbox.append(made[path], [new])
