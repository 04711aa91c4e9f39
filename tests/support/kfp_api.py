"""A stub of Kubeflow's API v2beta1 on loopback, which records every request."""

import email
import json
import threading
from dataclasses import dataclass, field
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BASE = "/apis/v2beta1"


@dataclass
class Request:
    """A recorded request."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    token: str | None


@dataclass
class FakeKubeflow:
    """The state of the stub and the requests that it received. refuse: the HTTP status of every answer, if set."""

    requests: list[Request] = field(default_factory=list)
    pipelines: dict[str, str] = field(default_factory=dict)  # id by name
    versions: dict[str, str] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    refuse: int | None = None
    url: str = ""

    def answer(self, request: Request) -> Any:
        """Return the document of an answer, or None for 404."""
        match request.method, request.path.removeprefix(BASE).strip("/").split("/"):
            case "GET", ["healthz"]:
                return {"multi_user": True}
            case "GET", ["pipelines"]:
                wanted = json.loads(request.query["filter"])["predicates"][0]["stringValue"]
                found = [self._pipeline(name) for name in self.pipelines if name == wanted]
                return {"pipelines": found, "total_size": len(found)} if found else {}
            case "POST", ["pipelines", "upload"]:
                self.pipelines[request.query["name"]] = f"pipeline-{len(self.pipelines)}"
                return self._pipeline(request.query["name"])
            case "GET", ["pipelines", pipeline, "versions"]:
                return {"pipeline_versions": [self._version(pipeline, name) for name in self.versions]}
            case "POST", ["pipelines", "upload_version"]:
                self.versions[request.query["name"]] = f"version-{len(self.versions)}"
                return self._version(request.query["pipelineid"], request.query["name"])
            case "GET", ["experiments"]:
                wanted = json.loads(request.query["filter"])["predicates"][0]["stringValue"]
                found = [self._experiment(name) for name in self.experiments if name == wanted]
                return {"experiments": found} if found else {}
            case "POST", ["experiments"]:
                self.experiments[request.body["display_name"]] = f"experiment-{len(self.experiments)}"
                return self._experiment(request.body["display_name"])
            case "POST", ["runs"]:
                return {**request.body, "run_id": "run-0"}
            case "GET", ["runs", run_id]:
                return {**self.run, "run_id": run_id} if self.run else None
            case "POST", ["recurringruns"]:
                return {**request.body, "recurring_run_id": "recurring-0"}
        return None

    def _pipeline(self, name: str) -> dict[str, str]:
        return {"pipeline_id": self.pipelines[name], "display_name": name}

    def _version(self, pipeline: str, name: str) -> dict[str, str]:
        return {"pipeline_id": pipeline, "pipeline_version_id": self.versions[name], "display_name": name}

    def _experiment(self, name: str) -> dict[str, str]:
        return {"experiment_id": self.experiments[name], "display_name": name, "namespace": "team"}


def serve(server: FakeKubeflow) -> ThreadingHTTPServer:
    """Serve on a free port of loopback until `shutdown`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers["Content-Type"]
            if kind.startswith("multipart/"):
                message = email.message_from_bytes(
                    f"Content-Type: {kind}\r\n\r\n".encode() + content, policy=policy.default
                )
                (part,) = message.iter_parts()
                package = part.get_payload(decode=True)
                assert isinstance(package, bytes)
                self._answer(package.decode())
            else:
                self._answer(json.loads(content))

        def _answer(self, body: Any) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            request = Request(self.command, url.path, query, body, self.headers.get("authorization"))
            server.requests.append(request)
            document = None if server.refuse else server.answer(request)
            status = server.refuse or (404 if document is None else 200)
            content = json.dumps(document if document is not None else {"error": "refused"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{found.server_address[1]}"
    threading.Thread(target=found.serve_forever, args=[0.01], daemon=True).start()
    return found
