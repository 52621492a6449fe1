"""Downloads that can be interrupted: resumed from `<name>.part`, checked for size, renamed when whole."""

import http.client
import os
import re
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Callable

from tqdm import tqdm

CHUNK = 1 << 20  # bytes
TIMEOUT_S = 30


class DownloadError(Exception):
    """A download that did not end well; the message ends with the wget line that does the same."""

    def __init__(self, url: str, path: Path, reason: object):
        super().__init__(f"{url}: {reason}\nto get it another way: wget -c {url} -O {path}")


def fetch(url: str, path: str | os.PathLike, size: int | None = None) -> Path:
    """Download `url` to `path`, resuming what an earlier try left in `<name>.part`. Raises DownloadError.

    `size` is the expected length in bytes. A whole file of another length is an error: never resumed, never renamed.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.exists() and size in (None, path.stat().st_size):
        print(f"{path}: already complete ({path.stat().st_size:,} bytes)")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _adopt(url, path, part, size)
        if part.exists() and size is not None and part.stat().st_size > size:
            part.unlink()
        if size is None or not part.exists() or part.stat().st_size < size:
            _receive(url, path, part, size)
        os.replace(part, path)
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        reason = error.reason if type(error) is urllib.error.URLError else error
        raise DownloadError(url, path, str(reason) or type(error).__name__) from None
    return path


def _adopt(url: str, path: Path, part: Path, size: int) -> None:
    """Take a shorter file at `path` (what `wget -c` leaves) as the start of the download; refuse a longer one."""
    found = path.stat().st_size
    if found > size:
        raise DownloadError(url, path, f"{path} has {found:,} bytes, expected {size:,}; remove it and try again")
    if not part.exists() or part.stat().st_size < found:
        os.replace(path, part)


def _receive(url: str, path: Path, part: Path, size: int | None) -> None:
    """Bring `part` to its whole length, or raise; an interrupted part stays for the next try."""
    with _open(url, part) as response:
        offset = part.stat().st_size if response.status == 206 else 0  # 200: the server sends it all again
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length is not None else None
        if size is not None and total not in (None, size):
            raise DownloadError(url, path, f"the server has {total:,} bytes, expected {size:,}")
        with open(part, "ab" if offset else "wb") as file, tqdm(
                total=total, initial=offset, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    received = part.stat().st_size
    if total is not None and received < total:
        raise DownloadError(url, path, f"connection closed after {received:,} of {total:,} bytes; run again to go on")
    if size is not None and received != size:
        part.unlink()  # whole, and not what was asked for: nothing to resume
        raise DownloadError(url, path, f"received {received:,} bytes, expected {size:,}")


def _open(url: str, part: Path, fresh: bool = False):
    """The response to a GET, from the end of `part` where there is one; from the start if the server cannot do that."""
    headers = {"User-Agent": "Mozilla/5.0 (compatible; python-urllib)"}
    offset = part.stat().st_size if part.exists() and not fresh else 0
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # nothing follows: the part is whole, or it is of another file
            part.unlink()
            return _open(url, part)
        raise
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if response.status == 206 and (start is None or int(start[1]) != offset):
        response.close()
        return _open(url, part, fresh=True)
    return response


def fetch_and_unpack(url: str, archive: Path, target: Path, unpack: Callable[[Path, Path], Path], then: str) -> int:
    """What a download script does: fetch `archive` and unpack(archive, folder of `target`), unless `target` is there;
    `then` is the command that comes next. Returns the exit status: 0, or 2 after a message."""
    if target.exists():
        print(f"{target}: already there")
        return 0
    try:
        fetch(url, archive)
        unpack(archive, target.parent)
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, EOFError, NotImplementedError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        print(f"{archive}: cannot be unpacked ({error}); if it is cut short, remove it and try again", file=sys.stderr)
        return 2
    print(f"{target}: ready; next: {then}")
    return 0
