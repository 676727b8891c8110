"""Public names: imported on first use, complete and unique."""

from importlib import import_module

import pytest

from projects import PROJECTS

PACKAGES = sorted(path.parent.name for folder in PROJECTS for path in folder.glob("src/*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists_and_no_other(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        _ = module.nonsense
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize(
    ("package", "was", "now"),
    [
        ("captain_cinema", "DrawingConfig", "SamplingConfig"),
        ("captain_cinema", "read_picture", "read_image"),
        ("tts_var.toy", "CheckerReward", "VerifierReward"),
    ],
)
def test_a_former_name_raises_one_line_with_the_present_one(package: str, was: str, now: str) -> None:
    module = import_module(package)
    assert now in module.__all__
    with pytest.raises(ImportError) as caught:
        exec(f"from {package} import {was}")
    assert str(caught.value) == f"{package}.{was} was renamed: use {package}.{now}"
