"""Settings of every command: refusals, and configs of nested runs."""

from dataclasses import dataclass

import pytest

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.errors import UserError
from triptych.run.config import RunConfig

BAD_NAMES = [
    "",
    ".",
    "./",
    "/tmp/a",
    "../a",
    "a/../../b",
    " a",
    "a ",
    "cache",
    "a/cache",
    "checkpoints",
    "a/checkpoints/b",
    ".lock",
    "a/.lock",
]
BAD_NAMES += [".hidden", "model_files", "a\nb", "a\0b", "a\x1b[31m", "b" * 256, "a/" + "ü" * 128]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"name is .*: choose a relative folder name"):
        RunConfig(name=name)


@pytest.mark.parametrize("name", ["a", "sweep/objective=gspo,seed=1", "a..b", "über", "b" * 255, "cached", "lock"])
def test_relative_names_are_accepted(name: str) -> None:
    assert RunConfig(name=name).name == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resume": "maybe"}, "resume is 'maybe': choose one of auto, never, must"),
        ({"peak_teraflops": 0.0}, "peak_teraflops is 0.0: it must be above 0"),
        ({"peak_teraflops": -1.0}, "peak_teraflops is -1.0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig(**settings)  # type: ignore[arg-type]


@dataclass
class OuterConfig(RunConfig):
    outer: int = 1


@dataclass
class InnerConfig(RunConfig):
    inner: int = 2


def test_a_nested_config_inherits_the_settings_of_the_run_only() -> None:
    checkpoint = CheckpointConfig(every_steps=7)
    own = OuterConfig(name="a", seed=3, output_root="out", device="cpu", checkpoint=checkpoint, outer=9)
    nested = own.nested(InnerConfig, "first", inner=5, resume="never")
    assert nested == InnerConfig(name="a/first", seed=3, output_root="out", device="cpu", checkpoint=checkpoint, inner=5, resume="never")
    assert own.name == "a", "the config itself is unchanged"


def test_a_nested_config_is_validated() -> None:
    with pytest.raises(UserError, match="name is 'a/../b'"):
        RunConfig(name="a").nested(RunConfig, "../b")
