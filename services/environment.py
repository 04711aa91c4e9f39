"""The environment of this process: variables that libraries read by themselves, and whether it is a pod."""

import os

# The file of certificates of authorities that are trusted: it does not say which server is reached.
KEPT = {"PGSSLROOTCERT"}
CERTIFICATES = ("AWS_CA_BUNDLE", "PGSSLROOTCERT", "SSL_CERT_FILE")


def ignore_variables(prefix: str) -> None:
    """Remove this process's variables whose names start with `prefix`, so that neither it nor its children read them.

    libpq and Celery prefer some of their variables to what a program gives them.
    """
    for name in [name for name in os.environ if name.startswith(prefix) and name not in KEPT]:
        del os.environ[name]


def advise(variable: str) -> str:
    """Return what a person does about a service that does not answer. A pod has no local stack."""
    files = "".join(f"{problem}. " for problem in unusable_certificates())
    if "KUBERNETES_SERVICE_HOST" in os.environ:  # set in every container by the kubelet
        return f"{files}Check {variable}, the service that it names, and the network policies."
    return f"{files}Start the local stack with `darkroom up`, or check {variable}."


def unusable_certificates() -> list[str]:
    """Return the variables whose file of certificates does not exist or has none. Libraries do not name the file."""
    import ssl  # takes milliseconds, and no command that works needs it

    problems = []
    for variable in CERTIFICATES:
        if file := os.environ.get(variable):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
            except ssl.SSLError:
                problems.append(f"{variable}: {file} has no certificates that can be read")
            except OSError as error:
                problems.append(f"{variable}: {file} cannot be read ({error.strerror})")
    return problems
