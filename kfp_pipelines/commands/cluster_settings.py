"""Reads how to reach Kubeflow from the environment."""

from pydantic import ValidationError

from kfp_pipelines.running.cluster import ClusterError, ClusterSettings
from training.errors import describe_permitted


def load_cluster() -> ClusterSettings:
    """Return the settings of the DARKROOM_KFP_* variables. Raises ClusterError naming the first that is wrong."""
    try:
        return ClusterSettings()
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        message = describe_permitted(problem["msg"])
        variable = f"DARKROOM_KFP_{str(problem['loc'][0]).upper()}"
        raise ClusterError(f"{variable}: {message[0].lower()}{message[1:]}") from None
