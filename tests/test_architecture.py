"""docs/architecture.md keeps its word: what it names is there, and nobody imports what it says they don't."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "t5x_mini"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# Of a path, and of what it defines: `train/loop.py`, `train/loop.py: train`.
NAMED = re.findall(r"((?:\w+/)*\w+\.(?:py|gin))(?::\s+(\w+))?", PAGE)


def rows(first: str) -> list[list[str]]:
    """The cells of the rows of the page's table whose first column has this title."""
    (table,) = re.findall(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def imported(module: Path) -> set[str]:
    """The packages and libraries that a module imports, now or later: `feed`, `seqio`; not those for types alone."""

    def inside(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            else:
                yield from inside(child)

    names = inside(ast.parse(module.read_text()))
    return {name.removeprefix("t5x_mini.").partition(".")[0] for name in names}


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_what_the_page_names_is_there(path, name):
    file = ROOT / path if path.startswith(("tests/", "gin/")) else PACKAGE / path
    assert file.is_file()
    defined = {
        getattr(node, "name", None) or getattr(node, "id", None)
        for node in (ast.walk(ast.parse(file.read_text())) if name else ())
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Name)
    }
    assert not name or name in defined


def test_the_page_names_much():
    assert len(set(NAMED)) > 60


@pytest.mark.parametrize(("package", "forbidden"), [(row[0].strip("`"), quoted(row[2])) for row in rows("package")])
def test_a_package_imports_nothing_that_the_page_forbids_it(package, forbidden):
    modules = list((PACKAGE / package).rglob("*.py"))
    assert len(modules) > 3 and forbidden
    assert {path: set(forbidden) & imported(path) for path in modules if set(forbidden) & imported(path)} == {}


@pytest.mark.parametrize(("library", "modules"), [(row[0].strip("`"), quoted(row[1])) for row in rows("library")])
def test_a_library_is_imported_where_the_page_says(library, modules):
    found = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if library in imported(path)]
    assert sorted(found) == sorted(modules)
