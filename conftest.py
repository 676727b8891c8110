"""Shapes are checked while tests run, in the modules that each package's own pyproject names (`[tool.triptych] jaxtyping`)."""

from jaxtyping import install_import_hook

from projects import PROJECTS

install_import_hook([module for project in PROJECTS.values() for module in project["tool"]["triptych"]["jaxtyping"]], "beartype.beartype")
