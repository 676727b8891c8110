"""The command `triptych`; its subcommands are entry points of the group `triptych.commands`, of any installed package."""

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
    """Runs one subcommand and prints the text that it returns.

    The entry point of a subcommand is called with the subparsers, adds one, and sets its default `answer` to a function
    from the parsed arguments to that text.
    """
    parser = argparse.ArgumentParser(prog="triptych", description="Runs, models and sweeps of Triptych.")
    verbs = parser.add_subparsers(required=True, metavar="command")
    for verb in sorted(entry_points(group=GROUP), key=lambda verb: verb.name):
        verb.load()(verbs)
    arguments = parser.parse_args()
    try:
        print(arguments.answer(arguments))
        return
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"cannot access {error.filename} ({error.strerror}): check its permissions and its disk"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
