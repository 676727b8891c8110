"""Bad input in one line: what Hydra, the disk and a lost process report, in words for whoever typed the command."""

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

from triptych.errors import EXIT_LOST_PROCESS, UserError
from triptych.files import describe_disk_error, is_disk_error
from triptych.run.config import RunConfig

EXIT_BAD_INPUT = 2

_OUT_OF_REACH = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def refuse(error: Exception, schema: type[RunConfig], wants_traceback: bool) -> NoReturn:
    """Ends the process with one line if the error is the user's, and hands it on if it is ours."""
    if not wants_traceback and is_lost_process(error):
        if "TRIPTYCH_ERROR_MARKER" not in os.environ:  # our launcher knows better who was lost, and how
            print(
                f"error: another process of this run has died or does not answer ({str(error).splitlines()[0][:120]}): "
                "the same command goes on from the last checkpoint",
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
    """Whether a collective failed because a peer has gone or stays away: what gloo and NCCL make of it."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "remote process exited")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def is_first_to_report() -> bool:
    """Whether no other process of this run has told its error yet; most errors come to all of them alike."""
    marker = os.environ.get("TRIPTYCH_ERROR_MARKER")
    if marker is None:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def explain(error: BaseException, schema: type[RunConfig]) -> str | None:
    """One line for whoever typed the command; None if the error is a defect of ours and deserves its traceback."""
    chain = list(causes(error))
    for link in chain:
        if isinstance(link, UserError):
            return " ".join(str(link).split())
        if (isinstance(link, OSError) and link.errno in _OUT_OF_REACH) or (not isinstance(link, OSError) and is_disk_error(link)):
            where = f" ({link.filename})" if isinstance(link, OSError) and link.filename else ""
            mend = "make room or choose another output_root, and run the same command again"
            return f"the disk refuses to be written{where}: {describe_disk_error(link)}; {mend}"
        if isinstance(link, ModuleNotFoundError):
            return f"the library '{link.name}' is not installed: install it (the package's extra of that name), or choose another option"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    # Building an object from the config failed for a reason of its own: that is no matter of the config's wording.
    if any(not isinstance(link, HydraException | OmegaConfBaseException | OSError) for link in chain):
        return None
    told, cause = str(error), str(chain[-1])
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': write key=value, and quote values that hold spaces, commas or brackets"
    unknown = re.search(r"Could not override '([^']+)'", told)
    if unknown:
        table = re.search(r"To append to your config use \+(\S+)=\{\s*([^:\s]+)\s*:\s*([^,}]+)", told)
        if table:
            return f"{table.group(1)} has no such key: add keys one by one, as in +{table.group(1)}.{table.group(2)}={table.group(3)}"
        placed = re.search(r"Did you mean to override (?:one of )?(\S+@[^?]+)\?", told)
        if placed:  # a group that this command has in a place of its own, or in several
            return f"{unknown.group(1)} is chosen here as {' or '.join(placed.group(1).split(', '))}"
        return renamed_key(unknown.group(1), schema.RENAMED) or f"unknown setting {unknown.group(1)}{_suggest(unknown.group(1), schema)}"
    missing_group = re.search(
        r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*?)(?:Config search path|$)", told, re.DOTALL
    )
    if missing_group:
        return _unknown_choice(missing_group.group(1), missing_group.group(3).split(), schema.RENAMED)
    merging = re.search(r"Error merging override (.+)", told)
    if merging:
        return f"{merging.group(1)}: {cause.splitlines()[0]}"
    lines = [line.strip() for line in told.splitlines() if line.strip() and not line.strip().startswith(("object_type", "reference_type"))]
    return "; ".join(lines[:3])


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on to the first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def renamed_key(key: str, renamed: Mapping[str, str]) -> str | None:
    """The message for a setting under its former name; None if it never had that name.

    Example:
        >>> renamed_key("loss.share", {"loss.share": "loss.fraction"})
        'loss.share was renamed: use loss.fraction'
    """
    for was, now in renamed.items():
        if key == was or key.startswith(f"{was}."):
            return f"{key} was renamed: use {now}{key.removeprefix(was)}"
    return None


def _unknown_choice(wanted: str, options: Sequence[str], renamed: Mapping[str, str]) -> str:
    """A choice that is not there: another spelling of one that is, or the list of all."""
    group, _, name = wanted.partition("/")
    if f"{group}={name}" in renamed:
        return f"{group}={name} was renamed: use {renamed[f'{group}={name}']}"
    # A panel's own folder needs no prefix of the panel: experiment=<panel>/<name> is experiment=<name>.
    shorter = [option for option in options if name.endswith((f"/{option}", f"_{option}"))]
    if shorter:
        return f"unknown choice {wanted}: it is {group}={max(shorter, key=len)}"
    return f"unknown choice {wanted}: {group} is one of {', '.join(options) or 'none'}"


def _suggest(key: str, schema: type[Any]) -> str:
    close = difflib.get_close_matches(key.lstrip("+~"), list(_setting_names(schema)), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ": --help lists all settings"


def _setting_names(schema: Any, prefix: str = "") -> Iterator[str]:
    for item in fields(schema):
        yield f"{prefix}{item.name}"
        if is_dataclass(item.type):
            yield from _setting_names(item.type, f"{prefix}{item.name}.")


def quote_text(argument: str, schema: type[Any]) -> str:
    """The override in quotes where its value is a text that Hydra would take for something else, or could not read.

    Only for top-level settings of type `str`: a storyline holds semicolons, commas and brackets, and a shell takes away the
    quotes that were meant for Hydra.

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
        # A text may be read and yet lose a backslash.
        plain = not override.is_sweep_override() and (not isinstance(override.value(), str) or override.value() == value)
    except HydraException:
        plain = False
    # Hydra takes a backslash for itself unless a quote follows, or the end.
    return argument if plain else key + "='" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"


def choice_name(node: Mapping[str, Any] | None) -> str:
    """A short name for a config's choice node: the last part of its `_target_`, or `none`."""
    return "none" if node is None else str(node["_target_"]).rsplit(".", 1)[-1]
