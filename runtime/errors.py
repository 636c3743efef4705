"""The one exception for users' mistakes."""


class UsageError(ValueError):
    """A mistake in a user's input; the message is one line: what was given, what is allowed and what to do.

    Programs print it and exit with status 2. Any other exception is a fault of the project, unless
    `runtime.program.explain` attributes it to the machine (a full disk, too little memory).
    """
