"""Just enough of a W&B server for a run to begin, on this machine."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        graphql = "graphql" in self.path
        self.answer({"data": data(**json.loads(body))} if graphql else {"exitcode": None, "limits": {}})

    def answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def data(query: str, variables: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
    """The answer to a query of the client: one project of one person, in which there are no runs yet."""
    given = variables or {}
    entity = {"id": "e", "name": "somebody"}
    if "upsertBucket" in query:
        project = {"id": "p", "name": "igpt", "entity": entity}
        bucket = {"id": "r", "name": given["name"], "displayName": given["name"], "config": "{}", "project": project}
        return {"upsertBucket": {"bucket": {**bucket, "description": "", "historyLineCount": 0}, "inserted": True}}
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": "http://127.0.0.1:9/"} for name in given["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
    versions = {"features": [], "cliVersionInfo": {"max_cli_version": "9.0.0"}}
    if "viewer" in query:
        viewer = {"id": "u", "entity": "somebody", "username": "somebody", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": versions}
    if "serverInfo" in query:
        return {"serverInfo": versions}
    if "__schema" in query or "__type" in query:
        return {name: {"fields": []} for name in ("QueryType", "MutationType", "ServerInfoType", "__type")}
    return {"model": {"bucket": None}, "entity": {"organization": None}}


@contextmanager
def w_and_b_server() -> Iterator[str]:
    """A server, for as long as the block lasts; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
