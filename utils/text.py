"""Text files as people bring them: lists, labels, names, .data, YAML and cfg are all read here.

UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one, lines that end in LF, CRLF or CR alone. Comments
may be in any encoding; the rest may not, since a guess would find other files and other names.
"""

import codecs
import os
import re
import reprlib

from utils.limits import MOST_TEXT_BYTES

# UTF-32's mark begins with that of UTF-16: longest first
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
HASH_FIRST = re.compile(rb"^[ \t]*#.*")  # comments of a list
MARK_FIRST = re.compile(rb"^[ \t]*[#;].*")  # of a .data file
HASH_AFTER_BLANK = re.compile(rb"(^|[ \t])#.*")  # of YAML
MARK_ANYWHERE = re.compile(rb"[#;].*")  # of a cfg
_LINE_END = re.compile(r"\r\n|\r|\n")  # not splitlines(): a file name may hold a form feed or U+2028
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 100
_short.maxlevel = 2


def first_line(error: Exception) -> str:
    """The first line of an error's text, its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class TextError(ValueError):
    """A file is no text that can be read; the message starts with `file:line:`."""


class CfgError(ValueError):
    """A cfg or data file says something that cannot be built; the message starts with `file:line:`."""


def shown(value: object) -> str:
    """`value` as an error message may show it: repr, cut short where it is long or nested."""
    return _short.repr(value)


def is_whole(text: str) -> bool:
    """Whether `text` is a whole number in ASCII digits; str.isdigit() also takes \u00b2, which int() does not."""
    return text.isascii() and text.isdigit()


def read_lines(path: str | os.PathLike, expected: str, comment: re.Pattern[bytes] | None = None,
               most_bytes: int = MOST_TEXT_BYTES) -> list[str]:
    """Lines of a text file, without their ends.

    expected: what the file should hold, in words; comment: matches what may hold bytes that are not UTF-8 (they come
    back as U+FFFD). Raises TextError on a binary file, another encoding or a file of more than `most_bytes`, OSError
    where it cannot be read.
    """
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most_bytes:
            raise TextError(f"{path}:1: found {size:,} bytes, expected {expected} of at most {most_bytes:,}")
        content = file.read(4096)
        mark, encoding = next(((mark, name) for mark, name in MARKS if content.startswith(mark)), (b"", "utf-8"))
        if encoding.startswith("utf-8") and b"\0" in content:  # before all of a large file is read
            raise _binary(path, expected)
        content += file.read()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if not encoding.startswith("utf-8"):
            line_i = 1 + len(_LINE_END.findall(content[:error.start].decode(encoding, "ignore")))
            raise TextError(f"{path}:{line_i}: found bytes that are not {encoding.upper()}, as its byte order mark "
                            f"says; expected {expected} in UTF-8 or UTF-16") from None
        text = "\n".join(_decode_lines(content[len(mark):], path, expected, comment))
    if "\0" in text:
        raise _binary(path, expected)
    lines = _LINE_END.split(text)
    return lines[:-1] if not lines[-1] else lines


def _binary(path: str | os.PathLike, expected: str) -> TextError:
    return TextError(f"{path}:1: found a binary file (or UTF-16 without a byte order mark), expected {expected} in "
                     "UTF-8 or UTF-16 with its mark")


def _decode_lines(content: bytes, path: str | os.PathLike, expected: str,
                  comment: re.Pattern[bytes] | None) -> list[str]:
    """Lines of UTF-8 text whose comments are in another encoding."""
    lines = []
    for line_i, line in enumerate(re.split(rb"\r\n|\r|\n", content), start=1):
        match = comment and comment.search(line)
        start = match.start() if match else len(line)
        try:
            lines.append(line[:start].decode() + line[start:].decode(errors="replace"))
        except UnicodeDecodeError as error:
            found = shown(line[error.start:error.start + 4])
            raise TextError(f"{path}:{line_i}: found {found}, which is not UTF-8; expected {expected} in UTF-8 or "
                            "UTF-16 (save the file as UTF-8)") from None
    return lines


def gigabytes(count: int) -> str:
    """"1.5 GB": bytes, in powers of 1024."""
    return f"{count / 2**30:.1f} GB" if count >= 100 << 20 else f"{count / 2**20:.1f} MB"
