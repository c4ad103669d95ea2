"""A Debian package, and all it needs that is not installed, unpacked into a folder of its own.

For a server whose package conflicts with one that the tests want installed. What it needs is what apt-get would
install with it, as its simulation tells; no script of a package runs, and nothing of the system is changed.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path("/var/cache/moverq-tests")
"""Below folders that a server which is not root can reach."""
ALWAYS = {"cyrus-imapd": ("cyrus-imapd", "cyrus-common", "sasl2-bin", "libsasl2-modules", "libsasl2-modules-db")}
"""Wanted in the folder even where they are installed: what is found by the place of the library that loads it."""


def unpacked_folder(package: str) -> Path:
    """Where it is, or would be: a root of a file system."""
    return CACHE / package


def unpack(package: str) -> None:
    """The package is in its folder, whole.

    Raises: subprocess.CalledProcessError, with what apt-get or dpkg said; the folder is not there then.
    """
    always = ALWAYS[package]
    told = _run("apt-get", "-s", "install", "--no-install-recommends", *always)
    wanted = {line.split()[1] for line in told.splitlines() if line.startswith("Inst ")} | set(always)
    CACHE.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        _run("apt-get", "download", *sorted(wanted), folder=place)
        for archive in sorted(place.glob("*.deb")):
            _run("dpkg", "-x", archive.name, "root", folder=place)
        (place / "root").chmod(0o755)
        (place / "root").rename(unpacked_folder(package))
    finally:
        shutil.rmtree(place)


def _run(*words: str, folder: Path | None = None) -> str:
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout
