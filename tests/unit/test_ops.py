"""How the operator's command is ordered: who may import whom, and what a name means."""

import ast
from collections import defaultdict
from graphlib import TopologicalSorter

from tests.conftest import REPO

# Each folder, and those that it may import from; what lies in ops/ itself is everybody's.
ROOMS = {
    "base": {"base"},
    "machine": {"base", "machine"},
    "door": {"base", "door"},
    "release": {"base", "machine", "door", "release", "database"},
    "database": {"base", "machine", "door", "release", "database"},
    "update": {"base", "machine", "door", "release", "update"},
}
FILES = {
    ".".join(path.relative_to(REPO).with_suffix("").parts): ast.parse(path.read_text())
    for path in (REPO / "ops").rglob("*.py")
    if path.name != "__init__.py"
}


def room(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) == 3 else "base"


def imported(tree: ast.Module) -> set[str]:
    """The modules of ops/ that a file imports, or imports something from."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    # `from ops.release import slots` names a module, `from ops.release.slots import keep` what is in one.
    names = {f"{node.module}.{one.name}" for node in found for one in node.names} | {str(one.module) for one in found}
    return names & FILES.keys()


IMPORTS = {module: imported(tree) for module, tree in FILES.items()}


def test_imports_run_one_way() -> None:
    """Releases and the database know the machine and the front door, those know neither; all know what lies below."""
    wrong = {
        (module, other)
        for module, others in IMPORTS.items()
        for other in others
        if room(other) not in ROOMS[room(module)]
    }
    assert wrong == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    """There is an order in which each is read before those that need it."""
    assert len(list(TopologicalSorter(IMPORTS).static_order())) == len(FILES) > 20


def test_one_meaning_a_name() -> None:
    """No two modules define the same function, class or constant."""
    defined = defaultdict(list)
    for module, tree in FILES.items():
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for name in {getattr(one, "id", getattr(one, "name", None)) for one in targets} - {None}:
                defined[name].append(module)
    assert {name: modules for name, modules in defined.items() if len(modules) > 1} == {}


def test_little_travels_through_the_environment() -> None:
    """Only `override` leaves anything there for what follows: all else is an argument."""
    written = set()
    for module, tree in FILES.items():
        for node in ast.walk(tree):
            changed = [*getattr(node, "targets", [])] if isinstance(node, (ast.Assign, ast.Delete)) else []
            places = [one.value for one in changed if isinstance(one, ast.Subscript)]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                places += [node.func.value] if node.func.attr in ("pop", "update", "setdefault", "clear") else []
            written |= {module for place in places if ast.unparse(place) == "os.environ"}
    assert written == {"ops.config"}
