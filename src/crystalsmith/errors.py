"""The one exception that reaches a user as a sentence instead of a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: what was wrong, where (file, row, property), and how to mend it. The command line
    prints it and exits with code 2; library callers catch it as a ``ValueError``.
    """
