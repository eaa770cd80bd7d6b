import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from igpt.data.sources.archives import Archive, data_root, find_or_download, open_member, read_rows
from igpt.errors import IgptError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Sends CONTENT, from where the client asks if `ranges`, and at most `limit` bytes a connection."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start and start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.ranges, server.limit = [], True, len(CONTENT)
    server.url = f"http://127.0.0.1:{server.server_port}/data.bin"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_what_is_missing_is_downloaded_once(server, tmp_path, checksum):
    for _ in range(2):
        path = find_or_download("data.bin", server.url, checksum, tmp_path / "root")
        assert path == tmp_path / "root" / "data.bin"
        assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_partial_download_is_gone_on_with(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1_000_001])
    assert find_or_download("data.bin", server.url, MD5, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000001-"]


def test_a_download_that_was_complete_but_not_renamed(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert find_or_download("data.bin", server.url, MD5, tmp_path).read_bytes() == CONTENT


def test_broken_connections_are_taken_up_again(server, tmp_path):
    server.limit = 1_000_000
    assert find_or_download("data.bin", server.url, MD5, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_connection_that_gives_nothing_keeps_what_is_there(server, tmp_path):
    server.limit = 0
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(IgptError, match=r"connection broke after 1000 of 3000000 bytes.*after the 1000 bytes"):
        find_or_download("data.bin", server.url, MD5, tmp_path)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:1000]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(IgptError, match=f"has the checksum {MD5} instead of {'0' * 32} and was deleted"):
        find_or_download("data.bin", server.url, "0" * 32, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_without_a_network_the_error_says_which_file_goes_where(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(IgptError) as caught:
        find_or_download("data.bin", server.url, MD5, tmp_path)
    assert server.url in str(caught.value)
    assert f"put it at {tmp_path / 'data.bin'}" in str(caught.value)


def test_a_file_that_is_there_is_taken_as_it_is(tmp_path):
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


def test_rows_of_a_member_are_those_of_the_array(tmp_path, monkeypatch):
    array = np.random.default_rng(1).integers(0, 256, (1000, 7), dtype=np.uint8)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, content in (("folder/other", b"x" * 999), ("folder/rows", b"head" + array.tobytes())):
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    monkeypatch.setattr("igpt.data.sources.archives.CHUNK", 40)  # blocks of 91 rows
    rows = np.sort(np.random.default_rng(2).choice(1000, 200, replace=False))
    with open_member(tmp_path / "a.tar.gz", "rows") as file:
        for wanted in (rows, rows[100:], rows[:3], rows[:0]):  # backwards too
            np.testing.assert_array_equal(read_rows(file, wanted, 7, offset=4), array[wanted])
        with pytest.raises(ValueError, match="reshape"):
            read_rows(file, np.array([1000]), 7, offset=4)
    with pytest.raises(KeyError, match="no absent"):
        open_member(tmp_path / "a.tar.gz", "absent")
