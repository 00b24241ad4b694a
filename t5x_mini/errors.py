"""The exceptions that are messages to a person rather than bugs."""


class UserError(Exception):
    """A mistake of the person who typed the command: the command line prints it without a traceback.

    The text says what was wrong, what was found, and what to write instead.
    """


class Terminated(Exception):
    """SIGTERM ended the command, after what there was to save was saved; the text says how to go on."""
