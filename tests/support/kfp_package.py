"""A compiled pipeline package, as tests read it."""

import json
from pathlib import Path
from typing import Any

import yaml

PROFILES = Path(__file__).parents[1] / "unit/kfp_pipelines/profiles.yaml"


class Package:
    """A compiled package: its documents, and its tasks by stage."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.spec, platform = yaml.load_all(self.text, yaml.CSafeLoader)
        self.kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.executors = self.spec["deploymentSpec"]["executors"]
        self.tasks = dict(self._tasks(self.spec["root"]))

    def _tasks(self, component: Any) -> Any:
        for task in component["dag"]["tasks"].values():
            found = self.spec["components"][task["componentRef"]["name"]]
            if "dag" in found:
                yield from self._tasks(found)
            else:
                yield task["taskInfo"]["name"], {**task, "executor": found["executorLabel"]}

    def outline(self) -> Any:
        """Return what a reviewer reads: the order of the stages, their retries and caching, and their nodes."""
        nodes: dict[str, list[str]] = {}
        stages = {}
        for stage, task in sorted(self.tasks.items()):
            stages[stage] = {
                "after": sorted(task.get("dependentTasks", [])),
                "cached": task.get("cachingOptions", {}).get("enableCache", False),
                "retries": task.get("retryPolicy", {}).get("maxRetryCount", 0),
            }
            node = {
                "resources": self.executors[task["executor"]]["container"].get("resources", {}),
                **self.kubernetes.get(task["executor"], {}),
            }
            nodes.setdefault(json.dumps(node, sort_keys=True), []).append(stage)
        return {
            "stages": stages,
            "nodes": [{"of": of, **json.loads(node)} for node, of in sorted(nodes.items(), key=lambda entry: entry[1])],
        }
