"""utils/download.py and the two download scripts, against a server on this machine."""

import http.server
import importlib.util
import io
import re
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from data import converter, download_egohands, download_oxford
from utils.download import DownloadError, fetch

CONTENT = bytes(range(256)) * 40  # 10,240 bytes

_spec = importlib.util.spec_from_file_location(
    "download_weights", Path(__file__).resolve().parent.parent / "weights" / "download_weights.py")
download_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(download_weights)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.files; server.ranges says whether it knows Range, server.cut after how many bytes it hangs up."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        self.server.asked.append(self.headers.get("Range"))
        if content is None:
            self.send_error(404)
            return
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.server.ranges else None
        start = int(wanted[1]) if wanted else 0
        if wanted and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][:self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.files, httpd.ranges, httpd.cut, httpd.length, httpd.asked = {"/a.bin": CONTENT}, True, None, True, []
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def test_file_arrives_whole_and_leaves_no_part(server, tmp_path):
    path = fetch(f"{server.url}/a.bin", tmp_path / "new" / "a.bin", len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_complete_file_is_not_asked_for_again(server, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    for size in (None, len(CONTENT)):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", size)
    assert server.asked == [] and "already complete" in capsys.readouterr().out


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_interrupted_download_is_resumed(server, tmp_path, size):
    server.cut = 3000
    with pytest.raises(DownloadError, match="3,000 of 10,240 bytes"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", size)
    assert (tmp_path / "a.bin.part").stat().st_size == 3000 and not (tmp_path / "a.bin").exists()
    server.cut = None
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", size).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-"]


def test_server_that_ignores_range_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "a.bin.part").write_bytes(b"x" * 3000)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 500])
def test_part_with_nothing_to_follow_starts_again(server, tmp_path, length):
    (tmp_path / "a.bin.part").write_bytes(b"x" * length)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT


def test_whole_part_of_known_size_is_only_renamed(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(CONTENT)).read_bytes() == CONTENT
    assert server.asked == []


def test_part_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(CONTENT)).read_bytes() == CONTENT


def test_start_left_at_the_final_name_is_resumed(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT[:5000])
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(CONTENT)).read_bytes() == CONTENT
    assert server.asked == ["bytes=5000-"]


def test_longer_file_at_the_final_name_is_refused_and_kept(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT + b"x")
    with pytest.raises(DownloadError, match="10,241 bytes, expected 10,240"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", len(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT + b"x"


def test_another_size_on_the_server_is_an_error_before_anything_is_written(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:100])
    with pytest.raises(DownloadError, match="the server has 10,240 bytes, expected 20,000"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", 20_000)
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:100] and not (tmp_path / "a.bin").exists()


def test_wrong_size_without_a_stated_length_leaves_nothing_to_resume(server, tmp_path):
    server.length = False
    with pytest.raises(DownloadError, match="received 10,240 bytes, expected 20,000"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", 20_000)
    assert list(tmp_path.iterdir()) == []
    assert fetch(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["{}/none.bin", "http://127.0.0.1:1/a.bin", "no-url"])
def test_failure_says_why_and_names_wget(server, tmp_path, url):
    url = url.format(server.url)
    with pytest.raises(DownloadError) as error:
        fetch(url, tmp_path / "a.bin")
    why, instead = str(error.value).splitlines()
    assert why.startswith(url) and len(why) > len(url) + 5
    assert instead.endswith(f"wget -c {url} -O {tmp_path / 'a.bin'}")


def tar_gz(names) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(CONTENT)
            tar.addfile(info, io.BytesIO(CONTENT))
    return file.getvalue()


def oxford(server, root, *more):
    return download_oxford.main(["--root", str(root), "--url", f"{server.url}/hand_dataset.tar.gz", *more])


def test_oxford_release_is_unpacked_and_then_left_alone(server, tmp_path, capsys):
    server.files["/hand_dataset.tar.gz"] = tar_gz(["hand_dataset/test_dataset/test_data/images/a.jpg"])
    assert oxford(server, tmp_path) == 0
    assert (tmp_path / "hand_dataset/test_dataset/test_data/images/a.jpg").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hand_dataset", "hand_dataset.tar.gz"]
    assert oxford(server, tmp_path) == 0 and len(server.asked) == 1
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize("archive", [tar_gz(["hand_dataset/a", "../evil"]), tar_gz(["other/a"]),
                                     tar_gz(["hand_dataset/a"])[:-30], b"<html>not here</html>"],
                         ids=["outside", "another folder", "cut short", "no archive"])
def test_bad_archive_is_named_and_leaves_no_release(server, tmp_path, capsys, archive):
    server.files["/hand_dataset.tar.gz"] = archive
    assert oxford(server, tmp_path / "root") == 2
    assert "hand_dataset.tar.gz: cannot be unpacked" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "hand_dataset.tar.gz"]


def test_oxford_without_network_exits_2_with_the_wget_line(server, tmp_path, capsys):
    assert oxford(server, tmp_path) == 2
    assert "wget -c" in capsys.readouterr().err


def zipped(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as files:
        for name in names:
            files.writestr(name, CONTENT)
    return buffer.getvalue()


def egohands(server, root):
    return download_egohands.main(["--root", str(root), "--url", f"{server.url}/egohands_data.zip"])


@pytest.mark.parametrize("top", ["", "egohands_data/"])
def test_egohands_is_resumed_unpacked_and_then_left_alone(server, tmp_path, capsys, top):
    server.files["/egohands_data.zip"] = zipped(
        [f"{top}metadata.mat", f"{top}_LABELLED_SAMPLES/CARDS_COURTYARD_B_T/frame_0011.jpg"]
    )
    server.cut = 3000
    assert egohands(server, tmp_path) == 2 and "wget -c" in capsys.readouterr().err
    server.cut = None
    assert egohands(server, tmp_path) == 0 and server.asked == [None, "bytes=3000-"]
    assert (tmp_path / "egohands_data/_LABELLED_SAMPLES/CARDS_COURTYARD_B_T/frame_0011.jpg").read_bytes() == CONTENT
    assert (tmp_path / "egohands_data/metadata.mat").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["egohands_data", "egohands_data.zip"]
    assert egohands(server, tmp_path) == 0 and "already there" in capsys.readouterr().out


@pytest.mark.parametrize(
    "archive",
    [
        zipped(["other/a"]),
        zipped(["_LABELLED_SAMPLES/a"])[:-30],
        b"<html>not here</html>",
        zipped(["_LABELLED_SAMPLES/a"]).replace(CONTENT, bytes(len(CONTENT))),
    ],
    ids=["another folder", "cut short", "no archive", "damaged"],
)
def test_bad_egohands_archive_is_named_and_leaves_no_release(server, tmp_path, capsys, archive):
    server.files["/egohands_data.zip"] = archive
    assert egohands(server, tmp_path / "root") == 2
    assert "egohands_data.zip: cannot be unpacked" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "egohands_data.zip"]


def test_weights_are_fetched_by_name_and_checked(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(download_weights, "SIZES", {"yolov3.weights": 10_240, "darknet53.conv.74": 99})
    server.files |= {"/yolov3.weights": CONTENT, "/darknet53.conv.74": b"too short"}
    run = ["--out", str(tmp_path), "--base-url", server.url]
    assert download_weights.main(["yolov3.weights", *run]) == 0
    assert (tmp_path / "yolov3.weights").read_bytes() == CONTENT and len(server.asked) == 1
    assert download_weights.main(run) == 2  # both: the first is there, the second is not what it should be
    assert "expected 99" in capsys.readouterr().err


def test_unknown_weights_are_refused(tmp_path):
    with pytest.raises(SystemExit) as stop:
        download_weights.main(["yolov9.weights", "--out", str(tmp_path)])
    assert stop.value.code == 2


def test_converter_names_the_address_that_the_downloader_uses():
    assert converter.URL == download_oxford.URL
