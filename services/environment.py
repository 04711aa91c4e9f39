"""Variables of the shell that libraries read by themselves, and that settings must override."""

import os


def ignore_variables(prefix: str) -> None:
    """Remove this process's variables whose names start with `prefix`, so that neither it nor its children read them.

    libpq and Celery prefer some of their variables to what a program gives them.
    """
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]
