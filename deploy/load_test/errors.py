"""The errors of load tests; the tree is in the package's docstring."""


class LoadTestError(Exception):
    """What keeps a load test from running; the message says what to do."""


class ConfigError(LoadTestError):
    """A config, a limit or an argument is unusable; names the key."""


class ReportError(LoadTestError):
    """A file is not a report in ghz's JSON format; names the field."""


class RunError(LoadTestError):
    """The load tool or a server did not do its part."""
