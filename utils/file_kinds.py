"""What a file is that holds something else than its name says, by its first bytes, for errors."""

import os
import re

# what a file begins with, blanks and capitals aside -> what it is, and what to do
_KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer, which stands for the file itself: `git lfs pull` fetches that"),
    (rb"(?:<!--.*?-->\s*)*<(?:!doctype html|html|head)", "a page of HTML, as a link to a page with a download button "
     "gives: download the file itself"),
    (rb"<\?xml|<error", "XML, as a server says that there is no such file: download it again"),
    (rb"\x1f\x8b|\xfd7zxz|bzh|7z\xbc\xaf|rar!", "a compressed archive: unpack it"),
    (rb"\x89hdf", "HDF5, as Keras writes it: convert it to Darknet .weights with the program that it is from"),
    (rb"(?:[#;][^\n]*\n\s*)*\[(?:net|network)\]", "a Darknet cfg: that is --cfg, its weights are --weights"),
    (rb"[{\[]", "JSON"))
_HEAD = 1024  # bytes


def kind_of(path: str | os.PathLike) -> str:
    """In words what a file is that is no weights file; "" where its first bytes do not tell."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file: it was not downloaded or written to its end"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    known = next((words for pattern, words in _KINDS if re.match(pattern, start, re.DOTALL)), "")
    is_text = all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head)
    return known or ("text" if is_text else "")
