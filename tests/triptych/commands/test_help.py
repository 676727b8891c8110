"""`--help`: every setting of every command with its value and a meaning."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize
from omegaconf import OmegaConf

from projects import commands
from triptych.commands.help import documentation, settings_of
from triptych.run.config import RunConfig
from triptych.run.targets import is_allowed


@dataclass
class Base:
    """A base.

    Attributes:
        first: the first, with a
            second line: and a colon.
        left, right: two at once.
    """

    first: int = 1
    left: int = 2
    right: int = 3


@dataclass
class Derived(Base):
    """A derived class.

    Attributes:
        first: another meaning.

    Note:
        nothing: no entry
    """


def function(path: str, *, rate: float) -> None:
    """Does nothing.

    Args:
        path: of a file.
        rate: in units.

    Returns:
        result: no argument.
    """


def test_meanings_are_read_from_docstrings() -> None:
    assert documentation(Base) == {
        "first": "the first, with a second line: and a colon.", "left": "two at once.", "right": "two at once.",
    }  # fmt: skip
    assert documentation(Derived)["first"] == "another meaning."
    assert documentation(Derived)["left"] == "two at once."
    assert documentation(function) == {"path": "of a file.", "rate": "in units."}


def test_code_that_is_not_allowed_is_not_imported_for_its_docstring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    tree = {"tracker": {"_target_": "evil_code.run", "rate": 1}}
    found = list(settings_of(RunConfig, tree, may_import=lambda target: is_allowed(target, {"triptych"}, ["mylab"])))
    assert [(setting.key, setting.text) for setting in found[1:]] == [("tracker.rate", "an argument of evil_code.run")]
    with pytest.raises(SystemExit):
        list(settings_of(RunConfig, tree))


# Choices without a default of their own.
NEEDED = {"pretrained": "policy.path=x"}


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_setting_of_every_command_has_a_meaning(name: str) -> None:
    command = commands()[name]
    command.register()
    with initialize(config_path=None, version_base="1.3"):
        config = compose(command.name)
    found = list(settings_of(command.schema, OmegaConf.to_container(config, resolve=False)))
    assert len(found) > 20
    assert [setting.key for setting in found if not setting.text or setting.text.startswith("an argument of")] == []
    keys = [setting.key for setting in found]
    assert len(keys) == len(set(keys))
    assert {"seed", "overwrite", "checkpoint.every_steps"} <= set(keys)


@pytest.mark.slow
def test_the_help_shows_choices_and_the_settings_of_the_chosen_ones() -> None:
    name, command = sorted(commands().items())[0]
    program = [sys.executable, "-m", command.__wrapped__.__module__]
    answer = subprocess.run([*program, "--help", "seed=17"], capture_output=True, text=True, check=True).stdout
    assert "  seed=17\n        the one seed that all random streams derive from." in answer
    assert "Choices (group=option):" in answer
    assert max(map(len, answer.splitlines())) < 300, name
