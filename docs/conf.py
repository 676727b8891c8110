"""Sphinx: Markdown pages and the API from docstrings."""

import tomllib
from pathlib import Path

_PACKAGES = {path.parent: tomllib.loads(path.read_text()) for path in sorted(Path(__file__).parents[1].glob("packages/*/pyproject.toml"))}

project = "Triptych"
copyright = "The Triptych authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
napoleon_use_ivar = True  # attributes of named tuples are documented once
autodoc_member_order = "bysource"
autodoc_mock_imports = [name for project in _PACKAGES.values() for name in project["tool"]["triptych"].get("optional", {})]
suppress_warnings = ["sphinx_autodoc_typehints", "ref.python", "docutils"]


def _modules(folder):
    """The modules of a package, without files that hold nothing but a docstring."""
    (package,) = [path.parent for path in folder.glob("src/*/__init__.py")]
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if len(path.read_text().splitlines()) > 1:
            yield ".".join(part for part in parts if part != "__init__")


def _fill_api_page(app, docname, source):
    """Inserts the modules of every package at the marker of the page."""
    if docname == "api/index":
        lines = []
        for folder, project in _PACKAGES.items():
            name = project["project"]["name"]
            lines += [f"## {name}", "", project["project"]["description"] + ".", ""]
            for module in _modules(folder):
                lines += [f"### {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
        source[0] = source[0].replace("<!-- modules -->", "\n".join(lines))


def setup(app):
    app.connect("source-read", _fill_api_page)
