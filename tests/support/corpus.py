"""The corpus of real mail, where it lies beside the project: `../shared/corpus/mail.tar.xz`. Never copied into it."""

import tarfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus" / "mail.tar.xz"
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
