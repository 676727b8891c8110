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
