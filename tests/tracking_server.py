"""Just enough of a W&B server for runs to begin, to be resumed and to end, on this machine."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tracking_artifacts import Artifacts


@dataclass
class Run:
    """What the server knows of a run; `posted` has the offset of each part of the history that came."""

    name: str
    settings: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    posted: list[int] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    preempting: bool = False


class Server(ThreadingHTTPServer):
    """Keeps runs by their id; takes no files if `refuses_files`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.runs: dict[str, Run] = {}
        self.views: dict[str, dict[str, Any]] = {}  # workspaces and reports, by their types
        self.artifacts = Artifacts()
        self.artifacts.url = self.url
        self.refuses_files = False
        self.refused = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that went away."""

    def stream(self, name: str, files: dict[str, Any], **news: Any) -> None:
        """Take a part of a run's history, its summary, its end."""
        run = self.runs[name]
        if (part := files.get("wandb-history.jsonl")) is not None:
            run.posted.append(part["offset"])
            rows = [json.loads(line) for line in part["content"]]
            run.history[part["offset"] : part["offset"] + len(rows)] = rows
        if (part := files.get("wandb-summary.json")) is not None:
            run.summary = json.loads(part["content"][-1])
        run.preempting |= bool(news.get("preempting"))
        if news.get("complete"):
            run.exit_codes.append(news["exitcode"])

    def query(self, query: str, variables: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        """The answer to a query of the client: one project of one person."""
        given = variables or {}
        name = re.search(r"(?:query|mutation) (\w+)", query)
        if name is not None and (answer := self.artifacts.query(name[1], given)) is not None:
            return answer
        entity = {"id": "e", "name": "somebody"}
        project = {"id": "p", "name": "igpt", "entity": entity}
        if "upsertBucket" in query:
            run = self.runs.setdefault(given["name"], Run(given["name"], {}))
            run.settings |= {name: value for name, value in given.items() if value is not None}
            return {"upsertBucket": {"bucket": {**bucket(run), "project": project}, "inserted": True}}
        if "GetProjects" in query:
            node = {"__typename": "Project", "entityName": "somebody", "createdAt": "2026-01-01T00:00:00Z"}
            edges = [{"node": {**project, **node, "isBenchmark": False, "user": None}}]
            last = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": last, "edges": edges}}
        if "upsertView" in query:
            self.views[given["type"]] = given
            return {"upsertView": {"view": {**given, "id": "v", "project": project}, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/files"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        versions = {"features": [], "cliVersionInfo": {"max_cli_version": "9.0.0"}}
        if "viewer" in query:
            viewer = {"id": "u", "entity": "somebody", "username": "somebody", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer, "serverInfo": versions}
        if "serverInfo" in query:
            return {"serverInfo": versions}
        if "__schema" in query or "__type" in query:
            return {name: {"fields": []} for name in ("QueryType", "MutationType", "ServerInfoType", "__type")}
        known = self.runs.get(given.get("name", ""))
        return {"model": {**project, "bucket": known and bucket(known)}, "entity": {"organization": None}}


def bucket(run: Run) -> dict[str, Any]:
    """A run as the client reads it; of its history, the length and the last row."""
    tail = json.dumps([json.dumps(row) for row in run.history[-1:]])
    return {
        "id": "r", "name": run.name, "displayName": run.settings.get("displayName"), "description": "", "config": "{}",
        "historyLineCount": len(run.history), "historyTail": tail, "eventsLineCount": 0, "eventsTail": "[]",
        "logLineCount": 0, "summaryMetrics": json.dumps(run.summary), "wandbConfig": '{"t": 1}', "tags": [],
        "stopped": False,
    }  # fmt: skip


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        content = self.server.artifacts.download(self.path)
        self.send(b"{}" if content is None else content)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if "/store/" in self.path:
            self.send(b"{}", self.server.artifacts.upload(self.path, content))
        else:
            self.server.refused += self.server.refuses_files
            self.send(b"{}", 403 if self.server.refuses_files else 200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if "graphql" in self.path:
            self.answer({"data": self.server.query(**json.loads(body))})
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], **{"files": {}, **json.loads(body)})
            self.answer({"exitcode": None, "limits": {}})
        else:
            self.answer({})

    def answer(self, body: dict[str, Any]) -> None:
        self.send(json.dumps(body).encode())

    def send(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def w_and_b_server() -> Iterator[Server]:
    """A server, for as long as the block lasts."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
