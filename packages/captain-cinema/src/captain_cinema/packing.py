"""`python -m captain_cinema.packing RUN TARGET`: a trained model as the folder that the package ships; see `triptych.packing`."""

from captain_cinema.small_model import STAGE_OF, model_folder, shipped_folder
from triptych.packing import packing_command


def main() -> None:
    """The command."""
    packing_command("captain_cinema", model_folder, stage_of=STAGE_OF, key="model", shipped=shipped_folder())


if __name__ == "__main__":
    main()
