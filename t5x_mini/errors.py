"""The exceptions that are messages to a person rather than bugs."""


class UserError(Exception):
    """A mistake of the person who typed the command: the command line prints it without a traceback.

    The text says what was wrong, what was found, and what to write instead.
    """


class SaveError(UserError):
    """A checkpoint could not be saved, because of the disk or the bucket; the text says why."""


class FolderLostError(UserError):
    """Another run has taken the folder over: nothing may be written there any more."""


class Terminated(BaseException):  # as KeyboardInterrupt is: nobody's `except Exception` is to take it
    """A signal ended the command, after what there was to save was saved.

    Attributes:
        status: the exit status, 128 and the signal's number: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, text: str, signal_number: int):
        super().__init__(text)
        self.status = 128 + signal_number
