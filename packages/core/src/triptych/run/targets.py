"""Code that a config names: which `_target_`s are outside the packages of a command, and which of them are allowed."""

import pkgutil
import sys
from collections.abc import Collection, Sequence
from typing import Any

from triptych.errors import UserError
from triptych.run.secret import leaves

CORE = __name__.split(".")[0]


def package_of(kind: type[Any]) -> str:
    """The top-level package of a class, also of one in the module that `python -m` runs."""
    name = kind.__module__
    if name == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        name = name if spec is None else spec.name
    return name.split(".")[0]


def outside_targets(settings: Any, packages: Collection[str]) -> list[str]:
    """The `_target_`s of settings that are defined outside the given packages, sorted.

    What counts is the object that a target leads to: `<package>.module.shutil.rmtree` is outside of every package but `shutil`.
    Only modules of the given packages are imported.

    Args:
        settings: nested mappings and lists.
        packages: top-level packages.
    """
    found = {str(value) for key, value in leaves(settings) if key.rsplit(".", 1)[-1] == "_target_"}
    return sorted(target for target in found if origin(target, packages).split(".")[0] not in packages)


def origin(target: str, packages: Collection[str]) -> str:
    """Dotted name of the definition that a target leads to; the target itself if it is outside `packages` or cannot be imported."""
    if target.split(".")[0] not in packages:
        return target
    try:
        found = pkgutil.resolve_name(target)
    except Exception:  # it is reported when it is built
        return target
    module = getattr(found, "__module__", None) or type(found).__module__
    return f"{module}.{getattr(found, '__qualname__', '')}"


def check_targets(settings: Any, packages: Collection[str], allowed: Sequence[str] | None) -> None:
    """Refuses a `_target_` outside the given packages that no entry of `allowed` covers.

    Args:
        settings: nested mappings and lists.
        packages: top-level packages whose code may be used in any case.
        allowed: dotted names; each covers itself and what it contains. None for all.

    Raises:
        UserError: naming the first such target.
    """
    for target in outside_targets(settings, packages):
        if not is_allowed(target, packages, allowed):
            defined = origin(target, packages)
            where = "" if defined == target else f" ({defined})"
            raise UserError(f"_target_ {target}{where} is not allowed: allowed_targets has {', '.join(allowed or []) or 'no entry'}")


def is_allowed(target: str, packages: Collection[str], allowed: Sequence[str] | None) -> bool:
    """Whether a `_target_` is defined inside the given packages, or covered by an entry of `allowed`; see `check_targets`."""
    if allowed is None:
        return True
    defined = origin(target, packages)
    return any(defined == name or defined.startswith(f"{name}.") for name in (*packages, *allowed))
