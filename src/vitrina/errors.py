"""Every error a user can meet. A message is one sentence: the value, the rule, the fix."""


class VitrinaError(Exception):
    """Root of all errors raised on purpose; the CLI prints the message alone and exits with `exit_code`."""

    exit_code = 1
    http_status = 500


class InputError(VitrinaError, ValueError):
    """The data or an argument breaks a rule that the message states."""

    exit_code = 2
    http_status = 422


class ConfigError(InputError):
    """A configuration file or a parameter is wrong."""


class LogError(InputError):
    """An event log breaks a rule: a column, a type, a time, an unknown event."""


class SplitError(InputError):
    """A split cannot be made, or two runs come from different splits."""


class NotFittedError(VitrinaError, RuntimeError):
    """A fitted attribute was asked of an estimator that was never fitted."""


class UnknownUser(VitrinaError, KeyError):
    """A model that memorises users was asked for one it never saw."""

    exit_code = 2
    http_status = 404

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "unknown user"


class UnknownItem(UnknownUser):
    """An item that is not in the catalogue."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "unknown item"


class ArtifactError(VitrinaError):
    """A saved model is missing, half-written, corrupted or of another version."""

    exit_code = 3


class StateError(VitrinaError):
    """Online state could not be read or written (disk full, locked, corrupted)."""

    exit_code = 4
    http_status = 503
