"""The command `triptych`; its verbs are entry points of the group `triptych.commands`, of the core and of any panel."""

import argparse
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from triptych.errors import UserError

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Verbs = argparse._SubParsersAction

GROUP = "triptych.commands"


def main() -> None:
    """Runs one verb: it returns the text that is printed.

    A verb registers itself: its entry point is called with the subparsers, adds one of its own, and sets `answer` to a
    function from the parsed arguments to that text.
    """
    parser = argparse.ArgumentParser(prog="triptych", description="Runs, models and sweeps of Triptych.")
    verbs = parser.add_subparsers(required=True, metavar="command")
    for verb in sorted(entry_points(group=GROUP), key=lambda verb: verb.name):
        verb.load()(verbs)
    arguments = parser.parse_args()
    try:
        print(arguments.answer(arguments))
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else f"{error.filename} cannot be used ({error.strerror}): see its owner and its disk"
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
