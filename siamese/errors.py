"""The errors a user can mend: one line that names the file, key or value, and the remedy."""


class UserError(Exception):
    """Bad configuration or data; the entry points print it as one line and end with exit code 2."""


class ConfigError(UserError):
    """A key that does not exist, a value of the wrong type, or one that is impossible."""


class UnknownKeyError(ConfigError):
    """A key that does not exist, or not beside the other choices; ``key`` is its name."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class DataError(UserError):
    """Data that is missing, malformed or unusable."""


class TrainingError(Exception):
    """Training cannot go on, for another reason than bad configuration or data; one line, exit code 1."""


def one_line(text: object) -> str:
    """Any text as one line, runs of white space as one blank."""
    return " ".join(str(text).split())


def printable(text: object) -> str:
    """Any text as one line, with unprintable characters replaced by question marks."""
    return "".join(character if character.isprintable() else "?" for character in one_line(text))


def reason_of(error: BaseException | str) -> str:
    """Return the operating system's reason for an error, without error number and file name, as one printable line."""
    return printable(getattr(error, "strerror", None) or error) or type(error).__name__
