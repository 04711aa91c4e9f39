"""A process whose loop hangs ends; one whose loop ticks does not."""

import subprocess
import sys

import pytest

from services.process.watchdog import EXIT_HUNG


@pytest.mark.parametrize(
    ("life", "status"),
    [
        ("time.sleep(20)", EXIT_HUNG),
        ("for _ in range(20): time.sleep(0.1); dog.tick()", 0),
        ("dog.pause(); time.sleep(2)", 0),
        ("dog.pause(); time.sleep(1); dog.tick(); time.sleep(20)", EXIT_HUNG),
        ("dog.stop(); time.sleep(2)", 0),
    ],
)
def test_a_process_that_does_not_tick_is_ended(life: str, status: int) -> None:
    code = f"import time\nfrom services.process.watchdog import Watchdog\ndog = Watchdog(0.8)\ndog.start()\n{life}"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=15, check=False).returncode == status
    )
