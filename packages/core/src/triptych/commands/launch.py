"""`python -m triptych.commands.launch`: torchrun, without its pages of traceback when a process ends by itself.

Takes the arguments of torchrun. A process that refuses its input has already said so in one line; what remains to be
done is to end with its exit code.
"""

import logging
import os
import signal
import sys
import tempfile

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from triptych.errors import EXIT_LOST_PROCESS


def main() -> None:
    """The command."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        # The first process that refuses its input tells why; the others find the file and keep silent.
        os.environ["TRIPTYCH_ERROR_MARKER"] = f"{folder}/told"
        # Processes that were asked to end finish their step and save, which may take longer than torchrun's 30 seconds; and
        # Slurm's announcement of a preemption must not end the launcher.
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
        os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2")
        try:
            run(parse_args(sys.argv[1:]))
        except SignalException as stopped:  # handed on to the processes, which have saved and ended
            sys.exit(128 + stopped.sigval)
        except ChildFailedError as error:
            # SIGTERM is how the others were asked to end when one had failed.
            ended = [(rank, failure) for rank, failure in sorted(error.failures.items()) if failure.exitcode < 0]
            killed = next((item for item in ended if item[1].exitcode != -signal.SIGTERM), None)
            _, failure = killed or error.get_first_failure()
            mend = "the same command goes on from the last checkpoint"
            if killed:
                print(
                    f"error: the process of rank {killed[0]} was ended by {signal.Signals(-failure.exitcode).name}: {mend}", file=sys.stderr
                )
            elif failure.exitcode == EXIT_LOST_PROCESS:
                print(f"error: a process of this run does not answer any more: {mend}", file=sys.stderr)
            sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


if __name__ == "__main__":
    main()
