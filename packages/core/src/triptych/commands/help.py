"""`--help` of the Hydra commands: every setting with its value and an explanation from the docstring of what reads it."""

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Protocol, get_args, get_type_hints

from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.utils import get_object
from omegaconf import OmegaConf

from triptych.commands.configs import accepted_groups, find_configs
from triptych.run.targets import CORE, is_allowed

_HELP = {"--help", "-h"}
_REFERENCE = re.compile(r"[Ss]ee `(\w+)`")
_SECTION = re.compile(r"^(Args|Attributes):\s*$", re.MULTILINE)


class Documented(Protocol):
    """A command as the help needs it.

    Attributes:
        panel: folder of its configs.
        name: of its primary config.
        package: import name of the package that has it.
        schema: dataclass of its settings.
    """

    panel: str
    name: str
    package: str
    schema: type[Any]


@dataclass(frozen=True)
class Setting:
    """One setting for the help.

    Attributes:
        key: dotted key.
        value: as it would be written on a command line.
        text: what it means; empty if no docstring has it.
    """

    key: str
    value: str
    text: str


def wants_help() -> bool:
    """Whether the command line requests the help."""
    return bool(_HELP & set(sys.argv[1:]))


def print_help(command: Documented) -> None:
    """Prints purpose, choices and settings of a command; overrides on the command line are applied first."""
    overrides = [argument for argument in sys.argv[1:] if argument not in _HELP]
    width = min(140, shutil.get_terminal_size((120, 24)).columns)
    with initialize(config_path=None, version_base="1.3"):
        config = compose(command.name, overrides=[item for item in overrides if not item.startswith("-")])
        choices = list(_choices(command))
    lines = [
        f"{inspect.getdoc(command) or ''}",
        "",
        "Usage: [key=value ...] [--help] [--cfg job] [-m for a sweep over values such as key=1,2]",
        "",
    ]
    lines += ["Choices (group=option):"]
    lines += [line for group, options in choices for line in _row(group, ", ".join(options), 26, width)]
    lines += ["", "Settings (key=value), as they are with these choices:"]
    packages = {CORE, command.package}
    for setting in settings_of(
        command.schema,
        OmegaConf.to_container(config, resolve=False),
        may_import=lambda target: is_allowed(target, packages, config.allowed_targets),
    ):
        lines += [
            f"  {setting.key}={setting.value}",
            *textwrap.wrap(setting.text, width - 8, initial_indent=" " * 8, subsequent_indent=" " * 8),
        ]
    print("\n".join(lines))


def settings_of(
    schema: type[Any], tree: Any, prefix: str = "", *, may_import: Callable[[str], bool] = lambda target: True
) -> Iterator[Setting]:
    """All settings of a command in the order of its config.

    Args:
        schema: dataclass of the settings.
        tree: composed config as nested mappings, lists and scalars.
        prefix: dotted key of the node above, with a dot.
        may_import: whether the code of a `_target_` may be imported for its docstring.
    """
    documented = documentation(schema)
    hints = get_type_hints(schema)
    for name, value in tree.items():
        key = f"{prefix}{name}"
        kind = _dataclass_in(hints.get(name))
        if kind is not None and isinstance(value, Mapping):
            is_table = getattr(hints[name], "__origin__", None) is dict  # several settings of one kind, by name
            inner = value.items() if is_table else [("", value)]
            for part, branch in inner:
                yield from settings_of(kind, branch, f"{key}.{part}." if part else f"{key}.", may_import=may_import)
        elif isinstance(value, Mapping) and "_target_" in value:
            yield from _choice_settings(value, key, documented.get(name, ""), may_import)
        else:
            yield Setting(key, _written(value), documented.get(name, ""))


def _choice_settings(node: Mapping[str, Any], key: str, text: str, may_import: Callable[[str], bool]) -> Iterator[Setting]:
    """The settings of a node with a `_target_`, explained by the docstring of the target."""
    target = str(node["_target_"])
    yield Setting(f"{key}._target_", target, text)
    try:
        documented = documentation(get_object(target)) if may_import(target) else {}
    except Exception:  # an optional library is absent
        documented = {}
    for name, value in node.items():
        if str(name).startswith("_"):
            continue
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _choice_settings(value, f"{key}.{name}", documented.get(name, ""), may_import)
        else:
            yield Setting(f"{key}.{name}", _written(value), documented.get(name, f"an argument of {target}"))


def documentation(target: Any) -> dict[str, str]:
    """Texts of the parameters or attributes of a class or function by name.

    They are taken from its docstring, from those of its base classes, and from that of a definition in its module to which it
    refers by "see".

    Example:
        >>> documentation(Setting)["key"]
        'dotted key.'
    """
    found: dict[str, str] = {}
    for kind in reversed(target.__mro__) if isinstance(target, type) else [target]:
        text = inspect.cleandoc(kind.__doc__ or "")
        for name in _REFERENCE.findall(text):
            referred = getattr(inspect.getmodule(kind), name, None)
            if referred is not None and referred is not target:
                found |= documentation(referred)
        found |= _described(text)
    return found


def _described(text: str) -> dict[str, str]:
    """The entries of the sections `Args` and `Attributes` of a docstring."""
    found: dict[str, str] = {}
    for match in _SECTION.finditer(text):
        block = re.split(r"\n(?=\S)", text[match.end() :].lstrip("\n"))[0]
        block = block if block.startswith(" ") else ""
        for entry in re.split(r"\n(?=    \S)", block):
            names, colon, meaning = entry.strip().partition(":")
            if colon and re.fullmatch(r"[\w*]+(, [\w*]+)*", names):
                found |= {name.strip(" *"): " ".join(meaning.split()) for name in names.split(",")}
    return found


def _choices(command: Documented) -> Iterator[tuple[str, Sequence[str]]]:
    """The groups of a command with their options."""
    loader = GlobalHydra.instance().config_loader()
    for group in sorted(accepted_groups(find_configs(command.package) / command.panel / f"{command.name}.yaml")):
        options = loader.get_group_options(group, results_filter=ObjectType.CONFIG)
        if options:
            yield group, options


def _dataclass_in(hint: Any) -> type[Any] | None:
    """The dataclass in a type hint such as `Inner` or `dict[str, Inner]`; None if there is none."""
    for kind in (hint, *get_args(hint)):
        if isinstance(kind, type) and is_dataclass(kind):
            return kind
    return None


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    return str(value)


def _row(name: str, text: str, indent: int, width: int) -> list[str]:
    lines = textwrap.wrap(text, width - indent, initial_indent="", subsequent_indent="")
    head = f"  {name}".ljust(indent)
    return [f"{head if index == 0 else ' ' * indent}{line}" for index, line in enumerate(lines)]
