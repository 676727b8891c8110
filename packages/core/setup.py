"""Puts the commit of the checkout into wheels and source distributions; everything else is in pyproject.toml."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

FILE = Path("triptych", "commit.txt")


def write_commit(folder: Path) -> None:
    """Writes the commit below `folder`; a source distribution, which has no checkout, keeps the file that it has."""
    here = Path(__file__).parent
    try:
        # An unpacked source distribution may lie inside a checkout of something else.
        subprocess.run(["git", "ls-files", "--error-unmatch", "setup.py"], cwd=here, check=True, capture_output=True)
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=here, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return
    target = folder / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(described.stdout)


class BuildPy(build_py):
    """Builds the wheel's files."""

    def run(self) -> None:
        """Adds the commit, but not to the checkout of an editable installation."""
        super().run()
        if not self.editable_mode:
            write_commit(Path(self.build_lib))


class Sdist(sdist):
    """Builds the source distribution's files."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Adds the commit."""
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir, "src"))


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
