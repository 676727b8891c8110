"""Identity of a run: its settings, the digests of what it reads, and the changes that were made on purpose."""

import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from triptych.errors import UserError
from triptych.files import read_json, read_yaml
from triptych.run.secret import secret_digests, without_secrets

CONFIG_FILE = "config.yaml"
IDENTITY_FILE = "identity.json"
CHANGES_FILE = "changes.jsonl"

RUN_FILES = frozenset({CONFIG_FILE, "provenance.json"})
"""Files by which the folder of a run is recognised."""

# Settings that may differ between two invocations of one run: they change no result.
NOT_IDENTITY = (
    "name",  # a run's folder may be moved and renamed
    "output_root",
    "resume",
    "resume_step",
    "overwrite",
    "changed",
    "allowed_targets",
    "device",
    "tracker",
    "checkpoint",
    "timeout_seconds",
    "report",
    "profile",
    "peak_teraflops",
)


class Change(NamedTuple):
    """A difference between two invocations of a run.

    Attributes:
        key: dotted key of the setting.
        before, after: values, or digests of what the setting names.
        is_input: whether the setting is the same and the file or folder that it names has changed.
    """

    key: str
    before: Any
    after: Any
    is_input: bool


@dataclass
class Identity:
    """What two invocations of a run have in common.

    Attributes:
        settings: resolved config as plain values, without secrets; kept in `config.yaml`.
        id: random, of the run; an overwritten run gets another one.
        inputs: SHA-256 of every file and folder that is read, by dotted key of the setting that names it.
        environment: digests of the values of environment variables in settings.
        rewound_to: the `resume_step` that was applied last.
        job: number of the Slurm job that ran it last.
    """

    settings: dict[str, Any]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    inputs: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    rewound_to: int | None = None
    job: str | None = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID"))

    @classmethod
    def of(cls, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> "Identity":
        """The identity of a new run from settings that may hold secrets, and the digests of its inputs."""
        made = cls(without_secrets(settings), inputs=dict(inputs))
        made.environment = secret_digests(settings, made.id.encode())
        return made

    def kept(self, saved: "Identity", settings: Mapping[str, Any]) -> "Identity":
        """This identity as one of the run that has `saved`.

        Args:
            saved: of an earlier invocation.
            settings: those that this identity was made of.
        """
        environment = secret_digests(settings, saved.id.encode())
        return Identity(self.settings, saved.id, self.inputs, environment, saved.rewound_to, self.job)

    def record(self) -> dict[str, Any]:
        """Content of `identity.json`."""
        return {key: value for key, value in asdict(self).items() if key != "settings"}


def read_identity(folder: Path) -> Identity:
    """The identity of the run in a folder.

    Raises:
        UserError: if one of its two files is missing or damaged.
    """
    remedy = "restore the file, or choose another name"
    for name in (CONFIG_FILE, IDENTITY_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds a run without {name}: {remedy}")
    settings = read_yaml(folder / CONFIG_FILE, remedy)
    found = read_json(folder / IDENTITY_FILE, remedy)
    if not isinstance(found, dict) or set(found) != {item.name for item in fields(Identity)} - {"settings"}:
        raise UserError(f"{folder / IDENTITY_FILE} is not the identity of a run: {remedy}")
    return Identity(settings, **found)


def differences(saved: Identity, current: Identity, *, budget_keys: Sequence[str] = ()) -> Iterator[Change]:
    """The settings and inputs in which two invocations of a run differ.

    Keys that change no result (paths, trackers, retention) are ignored, and so is another path to an input that is equal.

    Args:
        saved: of the earlier invocation.
        current: of this one, see `Identity.kept`.
        budget_keys: dotted keys whose numbers may grow.
    """
    same_input = {key for key in current.inputs if saved.inputs.get(key) == current.inputs[key]}
    before, after = (flatten(_without(identity.settings, same_input)) for identity in (saved, current))
    named = []
    for key in (*after, *(key for key in before if key not in after)):
        old, new = before.get(key), after.get(key)
        if key.split(".")[0] in NOT_IDENTITY or old == new:
            continue
        if key in budget_keys and isinstance(old, int | float) and isinstance(new, int | float) and new > old:
            continue
        named.append(key)
        yield Change(key, old, new, is_input=False)
    for kind, olds, news in (("inputs", saved.inputs, current.inputs), ("environment", saved.environment, current.environment)):
        for key in (*news, *(key for key in olds if key not in news)):
            if key.split(".")[0] in NOT_IDENTITY or olds.get(key) == news.get(key) or is_named(key, named):
                continue
            if key in same_input:  # found at another path, from a variable
                continue
            if kind == "environment":
                yield Change(key, "another value of the variable", "its present value", is_input=False)
            else:
                yield Change(key, olds.get(key), news.get(key), is_input=True)


def _without(tree: Any, keys: Collection[str], prefix: str = "") -> Any:
    """The tree with None in place of the values under some dotted keys."""
    if isinstance(tree, Mapping):
        return {name: _without(branch, keys, f"{prefix}{name}.") for name, branch in tree.items()}
    if isinstance(tree, list):
        return [_without(item, keys, f"{prefix}{index}.") for index, item in enumerate(tree)]
    return None if prefix.removesuffix(".") in keys else tree


def is_named(key: str, changed: Sequence[str]) -> bool:
    """Whether a dotted key, or one above it, is among those named as changed.

    Example:
        >>> is_named("task.path", ["task"]), is_named("task.path", ["task.match"])
        (True, False)
    """
    return any(key == name or key.startswith(f"{name}.") for name in changed)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted key; lists are values.

    Example:
        >>> flatten({"a": {"b": 1, "c": [2]}})
        {'a.b': 1, 'a.c': [2]}
    """
    if isinstance(tree, Mapping) and tree:
        return {key: value for name, branch in tree.items() for key, value in flatten(branch, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): tree}
