"""Errors that a user can fix. The message is one line: what is wrong (file, key or value), and what to do."""


class UserError(Exception):
    """Invalid configuration or data; the entry points print the message and end with exit code 2."""


class ConfigError(UserError):
    """An unknown key, or a value of the wrong type or out of range."""


class MissingPackageError(ConfigError):
    """A package of an extra is not installed; the message says how to install it in a clone and elsewhere."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed; in the clone run: pip install -e '.[{extra}]' "
            f"(without a clone: pip install {package})"
        )


class UnknownKeyError(ConfigError):
    """A key that does not exist, or not with the chosen options; ``key`` is its name."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class DataError(UserError):
    """Data that is missing, malformed or unusable."""


class TrainingError(Exception):
    """Work cannot continue for another reason than invalid configuration or data; exit code 1."""


class WorkerKilledError(TrainingError):
    """A process that shares the work was killed; the same work may succeed another time."""


def one_line(text: object) -> str:
    """Join the lines of a text, with one space for each run of white space."""
    return " ".join(str(text).split())


def printable(text: object) -> str:
    """Any text as one line, with unprintable characters replaced by question marks."""
    return "".join(character if character.isprintable() else "?" for character in one_line(text))


def reason_of(error: BaseException | str) -> str:
    """Return the operating system's reason for an error, without error number and file name, as one printable line."""
    return printable(getattr(error, "strerror", None) or error) or type(error).__name__
