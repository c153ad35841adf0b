"""The one exception that means: the caller gave something that cannot work."""


class InputError(ValueError):
    """A mistake in what the caller gave. Its message is one line that tells the fix.

    The scripts print the message on standard error and exit with status 2; library users catch it as a ValueError.
    """
