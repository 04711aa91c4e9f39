"""Whether tests take their time: `make test` and `make test-long` try a part of what `make chaos` tries."""

import os

THOROUGH = "DARKROOM_CHAOS_FAULTS" in os.environ
