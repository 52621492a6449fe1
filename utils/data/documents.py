"""Text, JSON and XML as strangers write them: any byte order mark, bounded in size, errors that name the line."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import yaml

from utils.datasets import DataError

MAX_JSON_BYTES = 2 << 30
MAX_TEXT_BYTES = 1 << 30
MAX_XML_BYTES = 64 << 20
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_text(path: str | os.PathLike, limit: int = MAX_TEXT_BYTES) -> str:
    """A text file in UTF-8, or UTF-16 with its mark. Raises DataError."""
    content = read_bytes(path, limit)
    try:
        return content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: found the byte 0x{content[error.start]:02x}, expected text in UTF-8") from None


def read_bytes(path: str | os.PathLike, limit: int) -> bytes:
    """A file of at most `limit` bytes. Raises DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size > limit:
        raise DataError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {limit:,}; cut it in several files")
    return path.read_bytes()


def _encoding(content: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")


def read_json(path: str | os.PathLike):
    """Content of a JSON file. Raises DataError (`file:line`)."""
    try:
        return json.loads(read_text(path, MAX_JSON_BYTES))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: found no JSON ({error.msg}, column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        text = "brackets in brackets without end" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: found {text}, expected JSON") from None


def read_yaml(path: str | os.PathLike) -> dict:
    """Keys and values of a YAML file. Raises DataError (`file:line`)."""
    try:
        options = yaml.safe_load(read_text(path, MAX_XML_BYTES))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "bad YAML"
        raise DataError(f"{path}:{mark.line + 1 if mark else 1}: found {problem}, expected YAML") from None
    if not isinstance(options, dict):
        raise DataError(f"{path}:1: found {type(options).__name__}, expected keys such as train, val, names")
    return options


@dataclass
class Element:
    """An XML element: name, the text directly in it, children, and the line it starts on."""

    tag: str
    line: int
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def child(self, tag: str) -> "Element | None":
        """The first child of that name."""
        return next((child for child in self.children if child.tag == tag), None)

    def value(self, tag: str) -> str | None:
        """The text of the first child of that name, without blanks round it."""
        child = self.child(tag)
        return None if child is None else child.text.strip()


def read_xml(path: str | os.PathLike) -> Element:
    """Root of an XML file. Raises DataError (`file:line`); a DOCTYPE is refused, so no entity can grow or fetch anything."""
    return parse_xml(read_bytes(path, MAX_XML_BYTES), path)


def parse_xml(content: bytes, path: str | os.PathLike) -> Element:
    """Root of an XML document, whatever encoding it declares. See read_xml."""
    text = _xml_text(content, path)
    document = Element("", 0)
    stack = [document]
    parser = expat.ParserCreate("utf-8")  # in place of the declared one: expat knows four encodings, Python all
    parser.buffer_text = True

    def start(tag, _attributes):
        element = Element(tag, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def characters(text):
        stack[-1].text += text

    def doctype(*_):
        raise DataError(f"{path}:{parser.CurrentLineNumber}: found a DOCTYPE, expected an annotation without one")

    parser.StartElementHandler, parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = start, characters, doctype
    parser.EndElementHandler = lambda _tag: stack.pop()
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise DataError(f"{path}:{error.lineno}: found no XML ({expat.errors.messages[error.code]})") from None
    return document.children[0]


def _xml_text(content: bytes, path: str | os.PathLike) -> str:
    """The document in Unicode: by its mark, else by the encoding that it declares, else UTF-8."""
    declared = re.match(rb"""\s*<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)["']""", content)
    marked = _encoding(content) != "utf-8"
    encoding = _encoding(content) if marked or not declared else declared[1].decode("ascii")
    try:
        return content.decode(encoding).lstrip("\r\n\t ")
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"{path}:1: found bytes that are not {encoding} ({error}), expected the encoding it declares") from None
