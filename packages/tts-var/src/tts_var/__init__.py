"""TTS-VAR (arXiv 2507.18537): test-time scaling for next-scale image models.

The package is reserved: it holds its name and version, and no model yet.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
