"""`python -m triptych.commands.launch`: torchrun without its traceback when a process exits with an error.

Takes the arguments of torchrun. A process reports bad input itself, in one line; the launcher exits with its exit code.
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
    """Launches the processes and exits with the code of the run."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        # The first process to report an error creates this file; the others find it and print nothing.
        os.environ["TRIPTYCH_ERROR_MARKER"] = f"{folder}/reported"
        # Processes that receive a signal finish their step and save, which may take longer than torchrun's 30 seconds;
        # SIGUSR2, by which Slurm announces a preemption, must not end the launcher.
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
        os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2")
        try:
            run(parse_args(sys.argv[1:]))
        except SignalException as stopped:  # forwarded to the processes, which have saved and ended
            sys.exit(128 + stopped.sigval)
        except ChildFailedError as error:
            # torchrun ends the other processes by SIGTERM when one has failed, so SIGTERM is not the cause.
            ended = [(rank, failure) for rank, failure in sorted(error.failures.items()) if failure.exitcode < 0]
            killed = next((item for item in ended if item[1].exitcode != -signal.SIGTERM), None)
            _, failure = killed or error.get_first_failure()
            remedy = "rerun the same command to resume from the last checkpoint"
            if killed:
                print(f"error: rank {killed[0]} was killed by {signal.Signals(-failure.exitcode).name}; {remedy}", file=sys.stderr)
            elif failure.exitcode == EXIT_LOST_PROCESS:
                print(f"error: a process of this run no longer responds; {remedy}", file=sys.stderr)
            sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


if __name__ == "__main__":
    main()
