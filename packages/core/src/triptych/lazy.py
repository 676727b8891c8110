"""Public names of a package, imported on first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def lazy_exports(
    package: str, homes: Mapping[str, str], *, renamed: Mapping[str, str] = MappingProxyType({})
) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a package's `__init__`.

    Args:
        package: the package, `__name__` in its `__init__`.
        homes: public name -> the module below the package that holds it.
        renamed: former public name -> its present one; using it raises an ImportError that gives the present name.

    Example:
        >>> get, names = lazy_exports("triptych", {"UserError": "errors"})
        >>> get("UserError").__module__, names
        ('triptych.errors', ['UserError', '__version__'])
    """

    def get(name: str) -> Any:
        if name in renamed:
            # An AttributeError would be replaced by Python's own message in `from package import name`.
            raise ImportError(f"{package}.{name} was renamed: use {package}.{renamed[name]}", name=name)
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get, [*sorted(homes), "__version__"]
