"""Shapes are checked while tests run, in the modules that each package's own pyproject names (`[tool.triptych] jaxtyping`)."""

import tomllib
from pathlib import Path

from jaxtyping import install_import_hook

_PROJECTS = [tomllib.loads(path.read_text()) for path in sorted(Path(__file__).parent.glob("packages/*/pyproject.toml"))]

install_import_hook([module for project in _PROJECTS for module in project["tool"]["triptych"]["jaxtyping"]], "beartype.beartype")
