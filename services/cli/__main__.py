"""`python -m services.cli` is `darkroom`."""

from services.cli import main

main()
