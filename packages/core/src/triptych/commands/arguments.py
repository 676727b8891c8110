"""Type errors in the arguments of `_target_` nodes, found by comparison with the annotations of the target."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import make_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ValidationError

from triptych.commands.environment import reads_environment
from triptych.errors import UserError

_PLAIN = (int, float, str, bool, list[int], list[float], list[str])


@contextmanager
def explaining_arguments(config: DictConfig) -> Iterator[None]:
    """Names the argument at fault if its body fails because of a type in `config`.

    Settings of a dataclass are checked while they are composed; those of a choice fail when it is built or called. They are not checked
    earlier, since that would import modules that a command may never use.

    Raises:
        UserError: naming the first argument of a wrong type.
    """
    try:
        yield
    except UserError:
        raise
    except (InstantiationException, TypeError, ValueError):  # a `_partial_` node fails when it is first called
        check_arguments(config)
        raise


def check_arguments(config: DictConfig) -> None:
    """Refuses an argument that its target does not have, and numbers and strings of another type than their parameter.

    Other types are left to the target.

    Raises:
        UserError: naming the first such argument.
    """
    for path, node in _choices(config, ""):
        names = _parameter_names(node["_target_"])
        for key in map(str, node):
            if names is not None and not key.startswith("_") and key not in names:
                raise UserError(f"unknown setting {path}{key}: {path.removesuffix('.')} has {', '.join(names) or 'no settings'}")
        parameters = _plain_parameters(node["_target_"])
        for key in (str(key) for key in node if key in parameters and not OmegaConf.is_missing(node, key)):
            try:
                OmegaConf.merge(OmegaConf.structured(make_dataclass("Argument", [(key, parameters[key])])), {key: node[key]})
            except ValidationError as error:
                written = node._get_node(key)
                if written is not None and reads_environment(written):  # its value may be a secret
                    kind = getattr(parameters[key], "__name__", parameters[key])
                    raise UserError(f"{path}{key} is {written._value()}, whose value is no {kind}: change it") from None
                raise UserError(f"{path}{key} is {node[key]}: {str(error).splitlines()[0]}") from error


def _choices(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """All nodes with a `_target_`, each after its path, such as `policy.`."""
    if node is not None and node._is_interpolation():  # another node, which is checked where it stands
        return
    if isinstance(node, ListConfig) and not node._is_none():
        for index in range(len(node)):
            yield from _choices(node._get_node(index), f"{path}{index}.")
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            yield from _choices(node._get_node(key), f"{path}{key}.")


def _parameter_names(target: str) -> list[str] | None:
    """Names of the parameters of a target; None if it takes any, or is not known."""
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _plain_parameters(target: str) -> dict[str, Any]:
    """Annotations of the parameters that take one plain type, or that type and None."""
    try:
        found = get_object(target)
        hints = get_type_hints(vars(found)["__init__"] if isinstance(found, type) else found)
    except Exception:
        return {}  # a target that cannot be imported is reported when it is built
    return {name: hint for name, hint in hints.items() if _is_plain(hint)}


def _is_plain(hint: Any) -> bool:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if isinstance(hint, UnionType) else [hint]
    return len(kinds) == 1 and kinds[0] in _PLAIN
