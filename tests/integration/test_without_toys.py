"""Every panel works without its `toy` folder: a scratch copy without toys is imported and tested."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import recordings
from projects import ROOT

IMPORT_ALL = """
import importlib, pkgutil
import captain_cinema, gspo_rl, triptych, tts_var

absent = set(%r)
for package in (captain_cinema, gspo_rl, triptych, tts_var):
    assert package.__file__.startswith(%r), package.__file__
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    assert not any(".toy" in name for name in names)
    for name in names:
        if name not in absent:
            importlib.import_module(name)
    for name in package.__all__:
        assert getattr(package, name) is not None
    print(package.__name__, len(names), len(package.__all__))
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    ignore = shutil.ignore_patterns("toy", "__pycache__", "*.egg-info", "outputs")
    for name in ("packages", "tests", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def environment(folder: Path) -> dict[str, str]:
    sources = os.pathsep.join(str(path) for path in sorted(folder.glob("packages/*/src")))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # The copy has no default folder of recordings beside it; where the project has none either, its tests are skipped.
    recorded = {"TRIPTYCH_GOLDEN": str(recordings.folder())} if recordings.are_expected() else {}
    return {**kept, **recorded, "PYTHONPATH": sources, "OMP_NUM_THREADS": "1"}


def test_every_other_module_imports_and_every_public_name_exists(scratch: Path) -> None:
    from architecture.source import optional

    code = IMPORT_ALL % (sorted(optional().values()), str(scratch))
    done = subprocess.run([sys.executable, "-c", code], env=environment(scratch), cwd=scratch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_contracts_formulas_and_recordings_hold(scratch: Path) -> None:
    contracts = [*scratch.glob("tests/*/**/test_contract.py"), *scratch.glob("tests/*/numerics"), scratch / "tests/gspo_rl/rollout"]
    recorded = [path for path in scratch.glob("tests/*/**/test_*.py") if "golden(" in path.read_text()]
    assert recorded
    for arguments in (contracts, [*recorded, "-m", "golden"]):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--numprocesses=0", *map(str, arguments)]
        done = subprocess.run(command, env=environment(scratch), cwd=scratch, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
