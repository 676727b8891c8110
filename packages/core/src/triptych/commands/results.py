"""`triptych results`: docs/results.md from the records of the experiments, and the image strip of the README."""

import argparse
from importlib.metadata import entry_points
from pathlib import Path

from triptych.commands.main import Verbs
from triptych.report.results import SECTIONS, Section, write_results, write_strip


def find_sections() -> list[Section]:
    """The sections of the installed panels, by name of the panel."""
    return [entry.load()() for entry in sorted(entry_points(group=SECTIONS), key=lambda entry: entry.name)]


def _results(arguments: argparse.Namespace) -> str:
    sections = find_sections()
    written = write_results(sections, arguments.experiments, arguments.docs)
    if arguments.outputs is not None:
        strip = arguments.docs / "images" / "strip.png"
        write_strip(sections, arguments.outputs, strip)
        written.append(strip)
    return "\n".join(str(path) for path in written)


def register(verbs: Verbs) -> None:
    """Adds `triptych results`."""
    parser = verbs.add_parser("results", help="docs/results.md from the records of the experiments, and the image strip of the README")
    parser.add_argument("--experiments", type=Path, default=Path("experiments"), help="folder of the records")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder to write into")
    parser.add_argument("--outputs", type=Path, help="folder of the default runs, for the strip; without it no strip is made")
    parser.set_defaults(answer=_results)
