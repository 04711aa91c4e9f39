"""Tells Kubernetes which pods of a pool are idle, so that it removes those first when the pool becomes smaller.

A ReplicaSet removes the pods with the least `controller.kubernetes.io/pod-deletion-cost` first. A worker sets this
annotation of its own pod to the number of leases that it holds, for which its account must be permitted to patch pods.
"""

import json
import logging
import ssl
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from training.errors import first_line

log = logging.getLogger("darkroom.deletion_cost")

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
API = "https://kubernetes.default.svc"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
INTERVAL_S = 30.0  # between changes, because each is a write to the API server
TIMEOUT_S = 5.0


class DeletionCost:
    """Keeps the annotation of a pod up to date, in a thread of its own. Errors are logged and stop nothing."""

    def __init__(
        self,
        pod: str,
        held: Callable[[], int],
        *,
        api: str = API,
        account: Path = ACCOUNT,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.pod, self.held, self.api, self.account, self.interval_s = pod, held, api, account, interval_s
        self._cost: int | None = None
        self._problem = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deletion-cost", daemon=True)

    def start(self) -> None:
        """Begin to watch the number of leases."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, without another change: the pod is on its way out."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            cost = self.held()
            if cost != self._cost:
                try:
                    self._patch(cost)
                    self._cost, self._problem = cost, ""
                except (OSError, ValueError) as error:
                    if first_line(error) != self._problem:
                        self._problem = first_line(error)
                        log.warning("the deletion cost of pod %s cannot be set: %s", self.pod, self._problem)
            self._stopping.wait(self.interval_s)

    def _patch(self, cost: int) -> None:
        namespace, token = (self.account.joinpath(name).read_text().strip() for name in ("namespace", "token"))
        request = urllib.request.Request(
            f"{self.api}/api/v1/namespaces/{namespace}/pods/{self.pod}",
            json.dumps({"metadata": {"annotations": {ANNOTATION: str(cost)}}}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
            method="PATCH",
        )
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # the API is in this cluster
        if self.api.startswith("https:"):
            trusted = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
            handlers.append(urllib.request.HTTPSHandler(context=trusted))
        with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S):
            pass
