"""Imports point down: the picture of the two packages as a table, and every import held against it.

A row may import the rows above it in the table; entries of one row do not import each other, what lies inside one
entry does as it likes. A new module fails here until somebody has decided where it stands: add it to a row.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    "store": (
        ("store.errors", "store.limits"),
        ("store.ids", "store.typed"),
        ("store.records", "store.frame"),
        ("store.clock", "store.digest", "store.layout", "store.names", "store.disk", "store.offload"),
        ("store.holds",),
        ("store.catalogue",),
        ("store.content", "store.log"),
        ("store.recovery", "store.snapshot", "store.feed", "store.folding", "store.paging"),
        ("store.proposal",),
        ("store.guard", "store.lane"),
        ("store.delivering", "store.deciding"),
        ("store.commit",),
        ("store.mailbox",),
        ("store.mover",),
        ("store.retention", "store.backup", "store.copies", "store.check"),
        ("store.salvage",),
        ("store.rebuild",),
        ("store.database",),
        ("store.__init__",),
    ),
    "moverq": (
        ("moverq.words",),
        ("moverq.errors", "moverq.limits", "moverq.version"),
        ("moverq.model",),
        ("moverq.endpoints.base",),
        ("moverq.plan", "moverq.flow", "moverq.mailfiles"),
        ("moverq.directory", "moverq.ledger", "moverq.endpoints", "moverq.mailmaker"),
        ("moverq.phases",),
        ("moverq.job", "moverq.queue", "moverq.moves"),
        ("moverq.session", "moverq.transport", "moverq.lmtp"),
        ("moverq.service",),
        (
            "moverq.connecting",
            "moverq.databases",
            "moverq.mailbox_files",
            "moverq.relocation",
            "moverq.removal",
            "moverq.upkeep",
            "moverq.shown",
        ),
        ("moverq.root",),
        ("moverq.demo",),
        ("moverq.cli",),
        ("moverq.__init__", "moverq.__main__"),
    ),
}

ALLOWED = {
    ("moverq.endpoints.store", "store"): "the one place where a move meets the store, by its public names",
    ("moverq.endpoints.store", "store.check"): "a tool of the store, of its own because few need it",
    ("moverq.endpoints.store", "store.rebuild"): "likewise",
    ("moverq.model.request", "moverq.endpoints.base"): "a request names the Home it starts from, a value",
}


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__") if name.count(".") > 1 else name, ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """The modules of ours that are imported, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where an arrow points"
            # `from package import thing` imports the module `thing`, if it is one.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in LAYERS)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def place(module: str) -> tuple[int, str]:
    """A module's row, and its entry: the longest that it is or lies in. Row -1: nobody has decided yet."""
    name = module if "." in module else f"{module}.__init__"
    found = [
        (len(entry), row, entry)
        for row, entries in enumerate(LAYERS[module.split(".")[0]])
        for entry in entries
        if name == entry or name.startswith(f"{entry}.")
    ]
    _, row, entry = max(found, default=(0, -1, module))
    return row, entry


def is_downward(module: str, imported: str) -> bool:
    if (module, imported) in ALLOWED:
        return True
    if module.split(".")[0] != imported.split(".")[0]:
        return False
    (row, entry), (below, other) = place(module), place(imported)
    return entry == other or below < row


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_every_module_has_its_place(package: str) -> None:
    assert [module for module, _ in modules(package) if place(module)[0] < 0] == []


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_every_import_points_down(package: str) -> None:
    upward = [
        f"{module} imports {imported}"
        for module, tree in modules(package)
        for imported in dict.fromkeys(imports(tree))
        if not is_downward(module, imported)
    ]
    assert upward == []


def test_the_table_refuses_what_the_picture_forbids() -> None:
    for module, imported in (
        ("store.commit", "moverq.errors"),
        ("moverq.phases.seed", "store"),
        ("moverq.endpoints.store", "store.commit"),
        ("moverq.endpoints.memory", "moverq.phases.seed"),
        ("moverq.ledger.ledger", "moverq.directory.directory"),
        ("moverq.plan.hierarchy", "moverq.endpoints.memory"),
        ("store.log.log", "store.content.segment"),
        ("store.mailbox", "store"),
    ):
        assert not is_downward(module, imported)
    assert is_downward("moverq.plan.hierarchy", "moverq.endpoints.base")
