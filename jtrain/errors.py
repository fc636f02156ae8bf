"""Errors that a person can act on, each with the exit code of the command line."""


class JtrainError(Exception):
    """A clear message, shown as one line without a traceback."""

    exit_code = 70


class ConfigError(JtrainError):
    """The command or the config is wrong; the message names the key."""

    exit_code = 2


class DataError(JtrainError):
    """Data or a file is missing or damaged; the message says what to do."""

    exit_code = 3


class HeldError(JtrainError):
    """The workdir is held by another run, a peer was lost, or a wait timed out."""

    exit_code = 4


class NonFiniteError(JtrainError):
    """The run was stopped because its loss or gradient is not finite.

    Attributes:
      what: the message without what to do, for a study whose runs are not resumed.
    """

    exit_code = 1

    def __init__(self, message: str, what: str = ""):
        super().__init__(message)
        self.what = what or message


class Interrupted(JtrainError):
    """A signal ended the run after its checkpoint was saved."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
