"""Optional libraries: what the packages declare, and the command that installs each."""

import pytest

from triptych.commands.messages import missing_library
from triptych.commands.optional import OptionalLibrary, optional_libraries


def test_the_declared_libraries_name_their_extra() -> None:
    found = {library.name: library.extra for library in optional_libraries()}
    assert found["wandb"] == "triptych-core[wandb]"
    assert found["hydra_plugins.hydra_submitit_launcher"] == "triptych-core[slurm]"
    assert any("-" in extra.split("[")[1] for extra in found.values()), "an extra with a hyphen is not cut at it"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandb", "the library 'wandb' is not installed: install it with pip install 'triptych-core[wandb]', or choose another option"),
        ("wandb.sdk", "install it with pip install 'triptych-core[wandb]'"),
        ("hydra_plugins.hydra_submitit_launcher", "install it with pip install 'triptych-core[slurm]'"),
        ("unheard_of", "the library 'unheard_of' is not installed: install it, or choose another option"),
    ],
)
def test_the_message_names_the_command(name: str, message: str) -> None:
    assert message in missing_library(name)


def test_whether_a_library_is_installed() -> None:
    assert OptionalLibrary("torch", "m", "x[y]").is_installed
    assert not OptionalLibrary("unheard_of", "m", "x[y]").is_installed
    assert not OptionalLibrary("unheard_of.inner", "m", "x[y]").is_installed
    assert OptionalLibrary("a", "m", "x[y]").command == "pip install 'x[y]'"
