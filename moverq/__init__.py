"""moverq: an online mailbox move engine.

async with moverq.open_root("moverq-root") as root:
    request = await root.move("ada@example.org", to="DB2")
    await root.wait(request)
"""

from typing import TYPE_CHECKING, Any

from moverq.version import __version__

if TYPE_CHECKING:
    from moverq.root import Root, init_root, open_root

__all__ = ["Root", "__version__", "init_root", "open_root"]


def __getattr__(name: str) -> Any:
    """Loaded when first asked for: the command line's help shall not wait for trio."""
    if name in ("Root", "init_root", "open_root"):
        from moverq import root

        return getattr(root, name)
    raise AttributeError(f"module 'moverq' has no attribute {name!r}")
