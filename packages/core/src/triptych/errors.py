"""The one exception that a user can cause."""

EXIT_LOST_PROCESS = 75
"""Exit code of a process that has lost another of its run (EX_TEMPFAIL): the same command may well succeed."""


class UserError(ValueError):
    """Bad input, told in one line: what is wrong (with the value), where, and the mend.

    Entry points print the message without a traceback and exit with code 2. Everything that only a
    defect of ours can cause is an `assert` or another exception, and keeps its traceback.

    Example:
        >>> raise UserError("group_size is 1: a group needs 2 or more samples to compare")
        Traceback (most recent call last):
        ...
        triptych.errors.UserError: group_size is 1: a group needs 2 or more samples to compare
    """
