"""`python -m triptych.launch`: torchrun, without its pages of traceback when a process ends by itself.

Takes the arguments of torchrun. A process that refuses its input has already said so in one line; what remains to be
done is to end with its exit code.
"""

import logging
import os
import sys
import tempfile

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main() -> None:
    """The command."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        # The first process that refuses its input tells why; the others find the file and keep silent.
        os.environ["TRIPTYCH_ERROR_MARKER"] = f"{folder}/told"
        try:
            run(parse_args(sys.argv[1:]))
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


if __name__ == "__main__":
    main()
