import hashlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from igpt.data.sources.downloads import Archive, data_root, find_or_download
from igpt.errors import IgptError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5, SHA256 = f"md5:{hashlib.md5(CONTENT).hexdigest()}", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    """Promises CONTENT, and sends at most `limit` bytes of it per connection."""

    def do_GET(self):
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: self.server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.limit = 0, len(CONTENT)
    server.url = f"http://127.0.0.1:{server.server_port}/data.bin"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def without_locks(folder):
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_a_missing_file_is_downloaded_once(server, tmp_path, checksum, caplog, monkeypatch):
    monkeypatch.setattr("igpt.progress.LINE_AFTER", 0)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        path = find_or_download("data.bin", server.url, checksum, tmp_path / "root")
        assert path == tmp_path / "root" / "data.bin"
        assert path.read_bytes() == CONTENT
    assert server.requests == 1
    assert without_locks(path.parent) == ["data.bin"]
    assert f"Downloading data.bin: {2**20 / len(CONTENT):.0%}" in caplog.text  # the first of three chunks


def test_one_of_several_processes_downloads(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: find_or_download("data.bin", server.url, MD5, tmp_path), range(4)))
    assert [path.read_bytes() for path in paths] == [CONTENT] * 4
    assert server.requests == 1


def test_what_a_killed_download_left_is_deleted(server, tmp_path):
    (tmp_path / "data.bin.part").mkdir()
    (tmp_path / "data.bin.part" / "tmp1").write_bytes(CONTENT[:1000])
    assert find_or_download("data.bin", server.url, MD5, tmp_path).read_bytes() == CONTENT
    assert without_locks(tmp_path) == ["data.bin"]


def test_a_broken_connection_leaves_nothing(server, tmp_path):
    server.limit = 2_000_000
    with pytest.raises(IgptError, match=f"downloading it from {server.url} failed .*; run the command again"):
        find_or_download("data.bin", server.url, MD5, tmp_path)
    assert without_locks(tmp_path) == []


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(IgptError, match="does not have the checksum md5:0+ and was deleted"):
        find_or_download("data.bin", server.url, f"md5:{'0' * 32}", tmp_path)
    assert without_locks(tmp_path) == []


def test_without_a_network_the_error_says_which_file_to_put_where(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(IgptError) as caught:
        find_or_download("data.bin", server.url, MD5, tmp_path)
    assert server.url in str(caught.value)
    assert f"put it at {tmp_path / 'data.bin'}" in str(caught.value)


def test_a_file_that_exists_is_used_as_it_is(tmp_path):
    (tmp_path / "data.bin").write_text("mine")
    assert find_or_download("data.bin", "http://127.0.0.1:1/", MD5, tmp_path).read_text() == "mine"
    (tmp_path / "unpacked").mkdir()
    assert Archive("data.bin", "", MD5, "unpacked").locate(str(tmp_path)) == tmp_path / "unpacked"


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(IgptError, match="set IGPT_DATA"):
        find_or_download("data.bin", "http://127.0.0.1:1/", MD5, tmp_path / "file")


def test_the_root_is_named_or_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("IGPT_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("/elsewhere").as_posix() == "/elsewhere"
    monkeypatch.delenv("IGPT_DATA")
    assert data_root().parts[-3:] == (".cache", "igpt", "data")
