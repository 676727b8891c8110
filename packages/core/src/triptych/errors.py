"""The exception for bad input, and the exit code of a run that lost a process."""

EXIT_LOST_PROCESS = 75
"""Exit code of a process that lost a peer of its run (EX_TEMPFAIL): rerunning the same command may succeed."""


class UserError(ValueError):
    """Bad input, reported in one line: what is wrong (with the value), where, and the remedy.

    Entry points print the message without a traceback and exit with code 2. What only a
    bug can cause is an `assert` or another exception, and keeps its traceback.

    Example:
        >>> raise UserError("group_size is 1: a group needs 2 or more samples to compare")
        Traceback (most recent call last):
        ...
        triptych.errors.UserError: group_size is 1: a group needs 2 or more samples to compare
    """
