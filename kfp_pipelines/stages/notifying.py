"""Notifies a chat webhook or Alertmanager that a run failed."""

import json
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from kfp_pipelines.events import Message, emit

ALERTMANAGER = "/api/v2/alerts"  # the end of the path of its API
TIMEOUT_S = 10.0


def notify(url: str, run: str, text: str) -> None:
    """Post that a run failed. An Alertmanager gets an alert, any other address {"text": ...}, as Slack reads it.

    A failure to post is reported as an event and is no error: the run has its end without it.
    """
    labels = {"alertname": "DarkroomPipelineFailed", "severity": "warning", "run": run}
    alert = [{"labels": labels, "annotations": {"summary": text}}]
    body = alert if urlsplit(url).path.endswith(ALERTMANAGER) else {"text": text}
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            emit(Message(f"told {urlsplit(url).hostname}: {text}"))
    except (OSError, ValueError, urllib.error.URLError) as error:  # the path of a webhook is a secret
        emit(Message(f"{urlsplit(url).hostname or 'the address'} could not be told that the run failed: {error}"))
