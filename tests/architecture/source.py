"""Static model of the packages for the architecture tests: modules, imports, functions, and declarations in pyproject."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from projects import PROJECTS, ROOT

CORE = "triptych"
FOLDERS = {path.name: path for path in sorted(ROOT.glob("packages/*/src/*")) if (path / "__init__.py").exists()}
PANELS = set(FOLDERS) - {CORE}


@dataclass(frozen=True)
class Function:
    """Qualified name of a function, its lines without the docstring, and its number of parameters without `self` and `cls`."""

    name: str
    lines: int
    parameters: int


@dataclass(frozen=True)
class Module:
    """One file of a package."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def room(self) -> str:
        """The folder below the package, or the module itself at the package's root; empty for the package's `__init__`."""
        return [*self.name.split("."), ""][1]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> list[tuple[str, bool]]:
        """Every imported module, and whether the import is at the top level of the file."""
        top, found = {id(node) for node in self.tree.body}, []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, id(node) in top) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}: relative import"
                assert node.module is not None
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [(name if name in MODULES else node.module, id(node) in top) for name in whole]
        return found

    @cached_property
    def imported_names(self) -> set[str]:
        """`module.name` of everything that is imported by name, and of every attribute of an imported module."""
        found, aliases = set(), {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found.add(f"{node.module}.{alias.name}")
                    aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and aliases.get(node.value.id) in MODULES:
                found.add(f"{aliases[node.value.id]}.{node.attr}")
        return found

    @cached_property
    def strings(self) -> list[str]:
        return [node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]

    @cached_property
    def functions(self) -> list[Function]:
        return list(self._functions(self.tree, self.name))

    def _functions(self, node: ast.AST, prefix: str) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}.{child.name}"
                arguments = child.args
                names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                documented = ast.get_docstring(child, clean=False) is not None
                docstring = child.body[0].end_lineno - child.body[0].lineno + 1 if documented else 0  # type: ignore[operator]
                lines = child.end_lineno - child.lineno + 1 - docstring  # type: ignore[operator]
                yield Function(name, lines, len([argument for argument in names if argument not in ("self", "cls")]))
                yield from self._functions(child, name)
            elif isinstance(child, ast.ClassDef):
                yield from self._functions(child, f"{prefix}.{child.name}")
            else:
                yield from self._functions(child, prefix)


def _modules() -> Iterator[Module]:
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield Module(".".join([package, *(part for part in parts if part != "__init__")]), path)


MODULES: dict[str, Module] = {module.name: module for module in _modules()}


def edges() -> set[tuple[str, str]]:
    """Imports between modules of one package."""
    return {
        (module.name, name)
        for module in MODULES.values()
        for name, _ in module.imports
        if name in MODULES and name.split(".")[0] == module.package and name != module.name
    }


def cycle(pairs: set[tuple[str, str]]) -> list[str]:
    """A cycle of imports; empty where there is none."""
    below: dict[str, set[str]] = {}
    for upper, lower in pairs:
        below.setdefault(upper, set()).add(lower)
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for lower in sorted(below.get(name, ())):
            found = walk(lower, [*path, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(below) if (found := walk(name, []))), [])


def optional() -> dict[str, str]:
    """The optional libraries by the name of their import, with the one module that needs each; without plugins, which no module imports."""
    groups = [project["project"].get("entry-points", {}).get("triptych.optional", {}) for project in PROJECTS.values()]
    return {name: value.split(":")[0] for group in groups for name, value in group.items() if "." not in name}


def configs() -> dict[Path, Any]:
    """Every YAML file of the repository's configs."""
    return {path: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").rglob("*.yaml"))}


def targets(config: Any) -> Iterator[str]:
    """Every `_target_` in a config, at any depth."""
    if isinstance(config, dict):
        yield from (value for key, value in config.items() if key == "_target_" and isinstance(value, str))
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)


def is_standard(name: str) -> bool:
    """Whether a module belongs to the standard library."""
    return name.split(".")[0] in sys.stdlib_module_names
