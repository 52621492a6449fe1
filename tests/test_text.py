"""Text files in the encodings and line ends that people bring; each wrong one is one line."""

import codecs
import re

import pytest

from utils.class_names import read_names
from utils.data.data_config import parse_data_config
from utils.data.image_files import read_image_list
from utils.data.yolo_labels import read_labels
from utils.parse_config import parse_model_config
from utils.text import HASH_FIRST, MARK_ANYWHERE, CfgError, TextError, read_lines, shown

CFG = "[net]\nwidth=32\nheight=32\n# c\n[convolutional]\nfilters=4\nsize=1\nactivation=linear\n"
ENCODINGS = {"plain": lambda text: text.encode(), "utf-8 with its mark": lambda text: codecs.BOM_UTF8 + text.encode(),
             "utf-16 le": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
             "utf-16 be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
             "utf-32": lambda text: text.encode("utf-32")}
ENDS = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_every_kind_of_text_is_read_whatever_the_mark_and_the_line_ends(tmp_path, monkeypatch, encode, end):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ä.jpg").write_bytes(b"")
    files = {"l.txt": "ä.jpg\n", "b.txt": "0 .5 .5 .2 .2\n0 .2 .2 .1 .1\n", "n.names": "hand\n手\n", "c.cfg": CFG,
             "d.data": "# x\nclasses=2\ntrain=l.txt\nnames=n.names\n",
             "y.yaml": "nc: 2 # x\ntrain: l.txt\nnames:\n- hand\n- 手\n"}
    for name, text in files.items():
        (tmp_path / name).write_bytes(encode(text.replace("\n", end)))
    assert [path.name for path in read_image_list("l.txt")] == ["ä.jpg"]
    assert len(read_labels(tmp_path / "b.txt", 1)) == 2
    assert read_names("n.names") == ["hand", "手"]
    assert len(parse_model_config("c.cfg")) == 2
    for name in ("d.data", "y.yaml"):
        data = parse_data_config(name)
        assert data.names == ("hand", "手") and [path.name for path in data.lists("train")] == ["l.txt"]


@pytest.mark.parametrize("encoding", ["latin-1", "gbk"])
def test_comments_may_be_in_any_encoding(tmp_path, encoding):
    words = {"latin-1": "réglé à la main", "gbk": "手掌检测"}[encoding].encode(encoding)
    (tmp_path / "c.cfg").write_bytes(CFG.encode().replace(b"# c", b"# " + words) + b"pad=1 ; " + words + b"\n")
    (tmp_path / "d.data").write_bytes(b"# " + words + b"\nclasses=1\n  ;" + words + b"\n")
    (tmp_path / "d.yaml").write_bytes(b"# " + words + b"\nnc: 1 # " + words + b"\nnames: [hand]\n")
    assert parse_model_config(tmp_path / "c.cfg")[1]["pad"] == "1"
    assert parse_data_config(tmp_path / "d.data").classes == 1
    assert parse_data_config(tmp_path / "d.yaml").names == ("hand",)


def test_other_encodings_outside_comments_name_file_line_and_what_is_expected(tmp_path):
    (tmp_path / "n.names").write_bytes("hand\nPfötchen\n".encode("latin-1"))
    with pytest.raises(TextError, match=r"n\.names:2: found .*xf6.*not UTF-8; expected class names in UTF-8 or UTF-16"):
        read_names(tmp_path / "n.names")
    (tmp_path / "c.cfg").write_bytes(b"[net]\nwidth=32\npolicy=\xe9t\xe9\n")
    with pytest.raises(CfgError, match=r"c\.cfg:3: found .*expected a Darknet cfg in UTF-8"):
        parse_model_config(tmp_path / "c.cfg")
    (tmp_path / "l.txt").write_bytes(codecs.BOM_UTF16_LE + "a\nb".encode("utf-16-le") + b"\x00")
    with pytest.raises(TextError, match=r"l\.txt:2: found bytes that are not UTF-16"):
        read_image_list(tmp_path / "l.txt")


@pytest.mark.parametrize("content", [b"\x00\x01\x02" * 3000, b"x" * 5000 + b"\0", "a\n".encode("utf-16-le")])
def test_a_binary_file_given_as_text_is_one_line(tmp_path, content):
    path = tmp_path / "x.data"
    path.write_bytes(content)
    for read in (read_image_list, read_names, parse_data_config, parse_model_config, lambda path: read_labels(path, 1)):
        with pytest.raises((TextError, CfgError), match="found a binary file") as error:
            read(path)
        assert len(str(error.value)) < 300 + len(str(path)) and "\n" not in str(error.value)


def test_lines_end_where_lines_end_and_nowhere_else(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\x0cb\u2028c\n\nd\r\ne\rf".encode())
    assert read_lines(tmp_path / "a.txt", "lines") == ["a\x0cb\u2028c", "", "d", "e", "f"]
    (tmp_path / "a.txt").write_bytes(b"")
    assert read_lines(tmp_path / "a.txt", "lines") == []


def test_only_the_comment_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes("ä=1 ".encode() + b"; \xff\n# \xe9\n")
    assert read_lines(tmp_path / "a.txt", "lines", MARK_ANYWHERE) == ["ä=1 ; \ufffd", "# \ufffd"]
    with pytest.raises(TextError, match="a.txt:1"):
        read_lines(tmp_path / "a.txt", "lines", HASH_FIRST)


def test_what_an_error_shows_is_short():
    value = "x"
    for _ in range(40):
        value = [value] * 10  # 10^40 words, were they written out
    assert len(shown(value)) < 1000 and len(shown("x" * 10**6)) < 200
    assert re.fullmatch(r"\['a', 'b'\]", shown(["a", "b"]))
