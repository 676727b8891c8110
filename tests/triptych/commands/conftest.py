"""Fixture that makes folders of runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.report import ReportConfig
from triptych.run.config import RunConfig
from triptych.run.session import Run


@pytest.fixture
def run() -> Callable[..., None]:
    """Makes a run of `steps` steps, finished if it has a summary."""

    def write(root: Path, name: str, *, summary: dict[str, object] | None = None, steps: int = 0) -> None:
        class Nothing:
            def save(self, directory: Path) -> None: ...

            def load(self, directory: Path) -> None: ...

        with Run.open(RunConfig(name=name, output_root=str(root), device="cpu")) as opened:
            opened.begin({"nothing": Nothing()})
            for step in range(1, steps + 1):
                opened.log({"loss": 1.0 / step}, step=step)
            if steps:
                opened.checkpoint(steps, {"nothing": Nothing()})
            if summary is not None:
                opened.finish(summary, report=ReportConfig(title=name))

    return write
