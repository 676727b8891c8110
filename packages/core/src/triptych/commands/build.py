"""Objects of the `_target_` nodes of a config whose interpolations are resolved."""

import functools
from collections.abc import Mapping
from typing import Any

from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate

from triptych.errors import UserError

_MODES = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


def build(node: Any, *args: Any, **kwargs: Any) -> Any:
    """The object of a node with a `_target_`, as Hydra's `instantiate` builds it, from settings that are resolved.

    Hydra would resolve every text once more, and fail at a key from the environment that contains `${`. Tables and lists arrive as
    dicts and lists.

    Args:
        node: nested mappings and lists.
        args, kwargs: further arguments of the target.
    """
    if isinstance(node, list | tuple):
        return [build(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: build(value) for key, value in node.items()}
    inner = build if node.get("_recursive_", True) else lambda value: value
    arguments = {str(key): inner(value) for key, value in node.items() if key not in _MODES}
    # Hydra finds the target and refuses those on its list.
    target = instantiate({"_target_": node["_target_"], "_partial_": True})
    made = functools.partial(target, *(args or map(inner, node.get("_args_", ()))), **{**arguments, **kwargs})
    if node.get("_partial_", False):
        return made
    try:
        return made()
    except (HydraException, UserError):
        raise
    except Exception as error:  # as Hydra does: an error while an object is built, of whatever type its library has
        raise InstantiationException(f"{node['_target_']} cannot be built: {error}") from error
