"""`python -m tts_var.packing RUN TARGET`: a trained model as the folder that the package ships; see `triptych.packing`."""

from triptych.packing import packing_command
from tts_var.small_model import STAGE_OF, model_folder, shipped_folder


def main() -> None:
    """The command."""
    packing_command("tts_var", model_folder, stage_of=STAGE_OF, key="generator", shipped=shipped_folder())


if __name__ == "__main__":
    main()
