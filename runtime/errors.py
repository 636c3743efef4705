"""The one exception for users' mistakes."""


class UsageError(ValueError):
    """A mistake in what a user gave: one line that says what was given, what is allowed and what to do.

    Programs print it and exit with status 2. Anything else that is raised is a fault of the project.
    """
