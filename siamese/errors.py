"""The errors a user can mend: one line that names the file, key or value, and the remedy."""


class UserError(Exception):
    """Bad configuration or data; the entry points print it as one line and end with exit code 2."""


class ConfigError(UserError):
    """A key that does not exist, a value of the wrong type, or one that is impossible."""


class DataError(UserError):
    """Data that is missing, malformed or unusable."""
