"""Wheels: complete without a checkout, and the same from a source distribution."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from projects import PROJECTS, ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with `direct/` (wheels of the checkout), `sdist/` and `indirect/` (wheels of those)."""
    for library in ("build", "setuptools"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("packages", "configs"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")

    def build(source: Path, kind: str, target: str) -> None:
        command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(folder / target), str(source)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        assert outcome.returncode == 0, outcome.stdout[-2000:] + outcome.stderr[-2000:]

    for package in PROJECTS:
        build(folder / "packages" / package.name, "sdist", "sdist")
        build(folder / "packages" / package.name, "wheel", "direct")
    for archive in (folder / "sdist").iterdir():
        shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    for source in (folder / "unpacked").iterdir():
        build(source, "wheel", "indirect")
    return folder


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_wheel(built: Path) -> None:
    wheels = sorted(path.name for path in (built / "direct").iterdir())
    assert len(wheels) == len(PROJECTS)
    for name in wheels:
        assert contents(built / "direct" / name) == contents(built / "indirect" / name)


@pytest.mark.slow
def test_a_wheel_has_its_configs_its_data_and_the_license(built: Path) -> None:
    for wheel in (built / "direct").iterdir():
        files = contents(wheel)
        (package,) = {name.split("/")[0] for name in files if name.endswith("py.typed")}
        source = next((ROOT / "packages").glob(f"*/src/{package}"))
        configs = {
            path.relative_to(ROOT).as_posix() for panel in (source / "configs").iterdir() for path in panel.resolve().rglob("*.yaml")
        }
        assert configs
        assert {f"{package}/{name}" for name in configs} <= set(files)
        for path in source.rglob("*"):
            if path.is_file() and path.suffix in {".py", ".html", ".safetensors", ".json"} and "configs" not in path.parts:
                assert f"{package}/{path.relative_to(source).as_posix()}" in files
        assert any(name.endswith("licenses/LICENSE") for name in files)


def test_every_panel_offers_the_extras_of_the_core() -> None:
    core = next(project["project"] for folder, project in PROJECTS.items() if folder.name == "core")
    for folder, project in PROJECTS.items():
        extras = project["project"]["optional-dependencies"]
        assert {"deepspeed", "slurm", "wandb"} <= set(extras)
        if folder.name != "core":
            assert all(extras[name] == [f"{core['name']}[{name}]"] for name in ("deepspeed", "slurm", "wandb"))
