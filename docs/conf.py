"""Sphinx: Markdown pages and the API from docstrings."""

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
autodoc_mock_imports = ["reasoning_gym", "wandb"]
suppress_warnings = ["sphinx_autodoc_typehints", "ref.python", "docutils"]
