"""The one exception that a person is meant to read."""


class IgptError(Exception):
    """Bad input or a state of the machine that we foresaw: one sentence that says what is wrong, where, and what to do.

    The commands print it without a traceback and exit with status 1.
    """
