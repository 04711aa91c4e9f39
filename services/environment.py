"""The environment of this process: variables that libraries read by themselves, and whether it is a pod."""

import os

# The file of certificates of authorities that are trusted: it does not say which server is reached.
KEPT = {"PGSSLROOTCERT"}


def ignore_variables(prefix: str) -> None:
    """Remove this process's variables whose names start with `prefix`, so that neither it nor its children read them.

    libpq and Celery prefer some of their variables to what a program gives them.
    """
    for name in [name for name in os.environ if name.startswith(prefix) and name not in KEPT]:
        del os.environ[name]


def advise(variable: str) -> str:
    """Return what a person does about a service that does not answer. A pod has no local stack."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:  # set in every container by the kubelet
        return f"Check {variable}, the service that it names, and the network policies."
    return f"Start the local stack with `darkroom up`, or check {variable}."
