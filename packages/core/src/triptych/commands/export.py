"""`triptych export`: writes a checkpoint of a run, of any strategy, as a model folder."""

import argparse
from pathlib import Path

from triptych.checkpoint.export import export
from triptych.commands.main import Verbs


def _export(arguments: argparse.Namespace) -> str:
    folder, steps = export(arguments.run, arguments.output, arguments.step)
    return "\n".join([*(f"{name}  step {step}" for name, step in steps.items()), f"model  {folder}"])


def register(verbs: Verbs) -> None:
    """Adds the subcommand `export`."""
    parser = verbs.add_parser("export", help="write a checkpoint of a run, of any strategy, as a model folder")
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, help="the model folder; default 'export' in the run's folder")
    parser.add_argument("--step", type=int, help="step of the checkpoint; default the newest")
    parser.set_defaults(answer=_export)
