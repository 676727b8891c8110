"""Captain Cinema (arXiv 2507.18634): a storyline becomes keyframes, keyframes become a short movie.

The package is reserved: it holds its name and version, and no model yet.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
