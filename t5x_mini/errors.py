"""The one exception that is a message to a person rather than a bug."""


class UserError(Exception):
    """A mistake of the person who typed the command: the command line prints it without a traceback.

    The text says what was wrong, what was found, and what to write instead.
    """
