"""The process of a local run: `python -m kfp_pipelines.running.local_process VARIANT ROOT ARGUMENTS`.

ARGUMENTS is a JSON object. Standard input is a pipe, whose end of file ends the stages. See
`kfp_pipelines.running.local`.
"""

import json
import sys
from typing import Any

from kfp import local

from kfp_pipelines import build
from kfp_pipelines.definition.pipeline import VARIANTS
from kfp_pipelines.definition.placement import Stages
from kfp_pipelines.events import StageError, emit
from kfp_pipelines.running.stage_processes import fork_stages


def run(variant: str, root: str, arguments: dict[str, Any]) -> int:
    """Run a pipeline under KFP's local runner. Returns the exit code."""
    fork_stages(lifeline=sys.stdin.fileno())
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True, enable_caching=True)
    try:
        VARIANTS[variant].define(Stages(image=build.image()))(**arguments)
    except RuntimeError as error:  # names only the stage; the stage has reported its own error
        print(f"({error})")
        return 1
    except Exception as error:
        emit(StageError.of(error))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
