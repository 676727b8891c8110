"""`triptych export`: a model folder of a run's newest checkpoint, whatever strategy wrote it."""

import argparse
from pathlib import Path

from triptych.checkpoint.export import export
from triptych.commands.main import Verbs


def _export(arguments: argparse.Namespace) -> str:
    folder, steps = export(arguments.run, arguments.output, arguments.step)
    return "\n".join([*(f"{name}  step {step}" for name, step in steps.items()), f"model  {folder}"])


def register(verbs: Verbs) -> None:
    """Adds `triptych export`."""
    parser = verbs.add_parser("export", help="a model folder of a run's checkpoint, whatever strategy wrote it")
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, help="the model folder; without it 'export' in the run's folder")
    parser.add_argument("--step", type=int, help="which checkpoint; without it the newest")
    parser.set_defaults(answer=_export)
