"""Settings that come from environment variables (`${oc.env:X}`): found in the config, and marked as secrets in the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

from triptych.run.secret import Secret

Path = tuple[Any, ...]


def mark_secrets(config: DictConfig, settings: Any) -> None:
    """Replaces every text in `settings` that depends on an environment variable by a `Secret` of the same text.

    Numbers stay as they are: they are hyperparameters, such as a seed from a job array.

    Args:
        config: composed, with its interpolations.
        settings: the dataclass, mappings and lists made of it.
    """
    with _recording_reads() as reads:
        found = list(_dependent(config, (), reads))
    for path, interpolation in found:
        holder = settings
        for key in path[:-1]:
            holder = _get(holder, key)
        _set(holder, path[-1], _marked(_get(holder, path[-1]), interpolation))


def reads_environment(node: Any) -> bool:
    """Whether the value of a node of a config depends on an environment variable."""
    with _recording_reads() as reads:
        return bool(list(_dependent(node, (), reads)))


def _marked(value: Any, interpolation: str) -> Any:
    """The value with all texts in it as secrets; an interpolation may also make a whole table."""
    if isinstance(value, str):
        return Secret(value, interpolation)
    if isinstance(value, dict):
        return {key: _marked(item, interpolation) for key, item in value.items()}
    if isinstance(value, list):
        return [_marked(item, interpolation) for item in value]
    if is_dataclass(value):
        for item in fields(value):
            _set(value, item.name, _marked(getattr(value, item.name), interpolation))
    return value


@contextmanager
def _recording_reads() -> Iterator[list[str]]:
    """A list that receives the name of every environment variable that an interpolation reads."""
    reads: list[str] = []

    def read(key: str, *default: Any) -> Any:
        reads.append(key)
        return oc.env(key, *default)

    OmegaConf.register_new_resolver("oc.env", read, replace=True)
    try:
        yield reads
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _dependent(node: Any, path: Path, reads: list[str]) -> Iterator[tuple[Path, str]]:
    """Paths of the values that read a variable, with their interpolations."""
    if node is None or node._is_missing():
        return
    if node._is_interpolation():
        interpolation = str(node._value())
        reads.clear()
        node = node._maybe_dereference_node()
        if reads:
            yield path, interpolation
            return
    if isinstance(node, DictConfig) and not node._is_none():
        for key in node:
            yield from _dependent(node._get_node(key), (*path, key), reads)
    elif isinstance(node, ListConfig) and not node._is_none():
        for index in range(len(node)):
            yield from _dependent(node._get_node(index), (*path, index), reads)


def _get(holder: Any, key: Any) -> Any:
    return holder[key] if isinstance(holder, dict | list) else getattr(holder, str(key))


def _set(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, dict | list):
        holder[key] = value
    else:
        object.__setattr__(holder, str(key), value)  # a frozen dataclass as well
