"""JSON and XML as strangers write them: any byte order mark, bounded in size, errors that name the line."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from utils.data.yolo_labels import DataError
from utils.text import MARKS

MAX_JSON_BYTES = 2 << 30
MAX_XML_BYTES = 8 << 20  # of one picture's annotation


def _content(path: str | os.PathLike, limit: int) -> bytes:
    """All bytes of a file of at most `limit` of them. Raises DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size > limit:
        raise DataError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {limit:,}; split it in several")
    return path.read_bytes()


def read_json(path: str | os.PathLike):
    """Content of a JSON file. Raises DataError (`file:line`)."""
    try:
        return json.loads(_content(path, MAX_JSON_BYTES))  # which knows the marks of UTF-8, -16 and -32
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: found no JSON ({error.msg}, column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        text = "brackets nested too deep" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: found {text}, expected JSON") from None


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
    """Root of an XML file. Raises DataError (`file:line`), at an entity of its own too: none can grow or fetch
    anything."""
    return parse_xml(_content(path, MAX_XML_BYTES), path)


def parse_xml(content: bytes, path: str | os.PathLike) -> Element:
    """Root of an XML document, whatever encoding it declares; path: for messages. Raises DataError (`path:line`)."""
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

    def entity(name, *_):
        raise DataError(f"{path}:{parser.CurrentLineNumber}: found the entity {name}, expected an annotation without "
                        "entities of its own")

    parser.StartElementHandler, parser.CharacterDataHandler = start, characters
    parser.EntityDeclHandler = parser.SkippedEntityHandler = entity
    parser.EndElementHandler = lambda _tag: stack.pop()
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise DataError(f"{path}:{error.lineno}: found no XML ({expat.errors.messages[error.code]})") from None
    return document.children[0]


def _xml_text(content: bytes, path: str | os.PathLike) -> str:
    """The document in Unicode: by its mark, else by the encoding that it declares, else UTF-8."""
    declared = re.match(rb"""\s*<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)["']""", content)
    marked = next((name for mark, name in MARKS if content.startswith(mark)), None)
    encoding = marked or (declared[1].decode("ascii") if declared else "utf-8")
    try:
        return content.decode(encoding).lstrip("\r\n\t ")
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"{path}:1: found bytes that are not {encoding} ({error}), expected what it declares") from None
