"""What stops a start: one line for the user, and the status the command ends with."""

FAILED = 1
BAD_OPTION = 2


class StartError(Exception):
    """A start that cannot go on. The text is one line: what was found, and what would be right."""

    status = FAILED


class OptionError(StartError):
    """An option, or the application's name, that cannot be understood."""

    status = BAD_OPTION
