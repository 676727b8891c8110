"""Arguments of `_target_` nodes that could not be built, held against what their class or function says that it takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import make_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ValidationError

from triptych.errors import UserError

_PLAIN = (int, float, str, bool, list[int], list[float], list[str])


@contextmanager
def explaining_arguments(config: DictConfig) -> Iterator[None]:
    """Names the argument at fault where something of `config` fails because of its type.

    Settings of a dataclass are checked while they are composed; those of a choice fail when it is built or called. They are not looked
    at earlier, since that would import what a command may never need.

    Raises:
        UserError: naming the first argument of a wrong type.
    """
    try:
        yield
    except UserError:
        raise
    except (InstantiationException, TypeError, ValueError):  # a partial one fails when it is first called
        check_arguments(config)
        raise


def check_arguments(config: DictConfig) -> None:
    """Refuses numbers and texts of another type than the parameter that they are for; anything else is the target's to judge.

    Raises:
        UserError: naming the first such argument.
    """
    for path, node in _choices(config, ""):
        parameters = _plain_parameters(node["_target_"])
        for key in (str(key) for key in node if key in parameters and not OmegaConf.is_missing(node, key)):
            try:
                OmegaConf.merge(OmegaConf.structured(make_dataclass("Argument", [(key, parameters[key])])), {key: node[key]})
            except ValidationError as error:
                raise UserError(f"{path}{key} is {node[key]}: {str(error).splitlines()[0]}") from error


def _choices(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """All nodes with a `_target_`, and where they stand, such as `policy.`."""
    if isinstance(node, ListConfig) and not node._is_none():
        for index in range(len(node)):
            yield from _choices(node._get_node(index), f"{path}{index}.")
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            yield from _choices(node._get_node(key), f"{path}{key}.")


def _plain_parameters(target: str) -> dict[str, Any]:
    """The parameters of one plain type, or None, with that type."""
    try:
        found = get_object(target)
        hints = get_type_hints(vars(found)["__init__"] if isinstance(found, type) else found)
    except Exception:
        return {}  # what cannot be found is told when it is built
    return {name: hint for name, hint in hints.items() if _is_plain(hint)}


def _is_plain(hint: Any) -> bool:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if isinstance(hint, UnionType) else [hint]
    return len(kinds) == 1 and kinds[0] in _PLAIN
