"""Text files that the options and arguments of commands name."""

from pathlib import Path

from services.errors import CommandError


def read_text(option: str, path: Path) -> str:
    """Return the text of a file in UTF-8. Raises CommandError, which names the option, if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CommandError(f"{option}: {path} does not exist") from None
    except OSError as error:
        raise CommandError(f"{option}: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{option}: {path} is not a text file: byte {error.start + 1} is not UTF-8") from None


def read_secret(option: str, path: Path, *, shortest: int) -> str:
    """Return the secret in a file, without the white space around it.

    Raises CommandError if the file cannot be read or the secret has fewer than `shortest` characters.
    """
    secret = read_text(option, path).strip()
    if len(secret) < shortest:
        raise CommandError(f"{option}: {len(secret)} characters are not allowed; permitted: at least {shortest}")
    return secret
