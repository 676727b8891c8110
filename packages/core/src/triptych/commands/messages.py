"""One-line messages for bad input: errors of Hydra, the disk and lost processes, reworded for the user."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from triptych.commands.optional import optional_libraries
from triptych.errors import EXIT_LOST_PROCESS, UserError
from triptych.files import describe_disk_error, is_disk_error
from triptych.run.config import RunConfig

EXIT_BAD_INPUT = 2

_OUT_OF_REACH = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def refuse(error: Exception, schema: type[RunConfig], wants_traceback: bool) -> NoReturn:
    """Exits with a one-line message if the user caused the error; raises it if it is a bug."""
    if not wants_traceback and is_lost_process(error):
        if "TRIPTYCH_ERROR_MARKER" not in os.environ:  # else the launcher reports which process was lost
            print(
                f"error: another process of this run has died or does not respond ({str(error).splitlines()[0][:120]}); "
                "rerun the same command to resume from the last checkpoint",
                file=sys.stderr,
            )
        sys.exit(EXIT_LOST_PROCESS)
    message = explain(error, schema)
    if wants_traceback or message is None:
        raise error
    if is_first_to_report():
        print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed because a peer has died or hangs, from the messages of gloo and NCCL."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "remote process exited")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def is_first_to_report() -> bool:
    """Whether no other process of this run has reported an error yet; most errors occur on all of them."""
    marker = os.environ.get("TRIPTYCH_ERROR_MARKER")
    if marker is None:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def explain(error: BaseException, schema: type[RunConfig]) -> str | None:
    """One line for the user; None if the error is a bug and needs its traceback."""
    chain = list(causes(error))
    for link in chain:
        if isinstance(link, UserError):
            return " ".join(str(link).split())
        if (isinstance(link, OSError) and link.errno in _OUT_OF_REACH) or (not isinstance(link, OSError) and is_disk_error(link)):
            where = f" ({link.filename})" if isinstance(link, OSError) and link.filename else ""
            remedy = "make room or choose another output_root, and rerun the same command"
            return f"cannot write to the disk{where}: {describe_disk_error(link)}; {remedy}"
        if isinstance(link, ModuleNotFoundError):
            return missing_library(str(link.name))
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    # Another exception in the chain: building an object failed for a reason that is not in the config.
    if any(not isinstance(link, HydraException | OmegaConfBaseException | OSError) for link in chain):
        return None
    message, cause = str(error), str(chain[-1])
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': write key=value, and quote values that hold spaces, commas or brackets"
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        table = re.search(r"To append to your config use \+(\S+)=\{\s*([^:\s]+)\s*:\s*([^,}]+)", message)
        if table:
            return f"{table.group(1)} has no such key: add its keys separately, as in +{table.group(1)}.{table.group(2)}={table.group(3)}"
        placed = re.search(r"Did you mean to override (?:one of )?(\S+@[^?]+)\?", message)
        if placed:  # a group that this command has in another package, or in several
            return f"this command selects {unknown.group(1)} as {' or '.join(placed.group(1).split(', '))}"
        return renamed_key(unknown.group(1), schema.RENAMED) or f"unknown setting {unknown.group(1)}{_suggest(unknown.group(1), schema)}"
    missing_group = re.search(
        r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*?)(?:Config search path|$)", message, re.DOTALL
    )
    if missing_group:
        return _unknown_choice(missing_group.group(1), missing_group.group(3).split(), schema.RENAMED)
    merging = re.search(r"Error merging override (.+)", message)
    if merging:
        return f"{merging.group(1)}: {cause.splitlines()[0]}"
    lines = [
        line.strip() for line in message.splitlines() if line.strip() and not line.strip().startswith(("object_type", "reference_type"))
    ]
    return "; ".join(lines[:3])


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its chain of causes, outermost first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def renamed_key(key: str, renamed: Mapping[str, str]) -> str | None:
    """The message for a setting under its former name; None if it never had that name.

    Example:
        >>> renamed_key("loss.decay", {"loss.decay": "loss.weight_decay"})
        'loss.decay was renamed: use loss.weight_decay'
    """
    for was, now in renamed.items():
        if key == was or key.startswith(f"{was}."):
            return f"{key} was renamed: use {now}{key.removeprefix(was)}"
    return None


def missing_library(name: str) -> str:
    """The message for a library that is not installed, with the command that installs it.

    Args:
        name: of its import, such as `wandb` or `wandb.sdk`.
    """
    for library in optional_libraries():
        if name.split(".")[0] == library.name.split(".")[0]:
            return f"the library '{name}' is not installed: install it with {library.command}, or choose another option"
    return f"the library '{name}' is not installed: install it, or choose another option"


def _unknown_choice(choice: str, options: Sequence[str], renamed: Mapping[str, str]) -> str:
    """The message for an unknown choice: its present name, the option it contains, or the list of options."""
    if choice.startswith("hydra/launcher/submitit"):
        return missing_library("hydra_plugins.hydra_submitit_launcher")
    group, _, name = choice.partition("/")
    if f"{group}={name}" in renamed:
        return f"{group}={name} was renamed: use {renamed[f'{group}={name}']}"
    # A panel's own folder needs no prefix of the panel: experiment=<panel>/<name> is experiment=<name>.
    shorter = [option for option in options if name.endswith((f"/{option}", f"_{option}"))]
    if shorter:
        return f"unknown choice {choice}: it is {group}={max(shorter, key=len)}"
    return f"unknown choice {choice}: {group} is one of {', '.join(options) or 'none'}"


def _suggest(key: str, schema: type[Any]) -> str:
    close = difflib.get_close_matches(key.lstrip("+~"), list(_setting_names(schema)), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ": --help lists all settings"


def _setting_names(schema: Any, prefix: str = "") -> Iterator[str]:
    for item in fields(schema):
        yield f"{prefix}{item.name}"
        if is_dataclass(item.type):
            yield from _setting_names(item.type, f"{prefix}{item.name}.")


def quote_text(argument: str, schema: type[Any]) -> str:
    """The override with its value quoted, if it is a string that Hydra would parse as another type or not at all.

    Only for top-level settings of type `str`: a storyline contains semicolons, commas and brackets, and the shell removes
    the quotes that Hydra needs.

    Example:
        >>> from triptych.run.config import RunConfig
        >>> quote_text("name=a; b", RunConfig)
        "name='a; b'"
    """
    key, equals, value = argument.partition("=")
    texts = {item.name for item in fields(schema) if item.type in (str, str | None, "str", "str | None")}
    if not equals or key not in texts or value[:1] in ("'", '"'):
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
        # A string may parse and still lose a backslash.
        plain = not override.is_sweep_override() and (not isinstance(override.value(), str) or override.value() == value)
    except HydraException:
        plain = False
    # Hydra unescapes backslashes only before a quote: double those, and those before the closing quote.
    return argument if plain else key + "='" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"


def choice_name(node: Mapping[str, Any] | None) -> str:
    """A short name of a choice node of a config: the last part of its `_target_`, or `none`."""
    return "none" if node is None else str(node["_target_"]).rsplit(".", 1)[-1]
