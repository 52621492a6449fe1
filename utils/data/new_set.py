"""The imported set on disk: images/, labels/, lists, names and data files; what shows it whole is written last."""

from pathlib import Path

import yaml

from utils.data.annotations import PARTS
from utils.data.labels import Entry, label_text
from utils.data.pictures import JOURNAL, place
from utils.data.yolo_labels import DataError
from utils.output import write_text
from utils.progress import Progress

REPORTS = ("report.json", "report.md", "contact_sheet.jpg")


class NewSet:
    """The folder that is written to."""

    def __init__(self, folder: Path, name: str | None, source: Path):
        self.folder, self.name = folder, name or folder.absolute().name
        if Path(self.name).name != self.name or not self.name:
            raise DataError(f"--name: found {self.name!r}, expected a name without folders")
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: found a file, expected a folder to write to")
        if folder.exists() and folder.resolve() == (source if source.is_dir() else source.parent).resolve():
            raise DataError(f"--out: found {folder}, which holds the source; expected a folder of its own")
        foreign = [path for path in [*self._finished(), folder / "images", folder / "labels"] if path.exists()]
        if foreign and not self.journal.is_file():
            raise DataError(f"{foreign[0]}: is there and was not made by an import; choose another --out")

    @property
    def journal(self) -> Path:
        """What an interrupted run had measured."""
        return self.folder / JOURNAL

    def _finished(self) -> list[Path]:
        """The files that only a whole set has."""
        lists = [self.folder / f"{part}.txt" for part in PARTS]
        return lists + [self.folder / f"{self.name}.{suffix}" for suffix in ("names", "data", "yaml")] + [
            self.folder / name for name in REPORTS]

    def write_pictures(self, entries: list[Entry], names: list[str], how: str) -> None:
        """Pictures and labels. From here until `finish` the folder holds no list."""
        for path in self._finished():
            path.unlink(missing_ok=True)
        for entry in Progress(entries, len(entries), "writing"):
            image = self.folder / "images" / entry.name
            place(entry.sample.image, image, how, entry.as_stored)
            _write_changed(self.folder / "labels" / Path(entry.name).with_suffix(".txt"), label_text(entry.rows, names))

    def finish(self, entries: list[Entry], names: list[str]) -> None:
        """Class names, lists, and the data files that name them, in this order."""
        write_text(self.folder / f"{self.name}.names", "".join(f"{name}\n" for name in names))
        lists = {}
        for part in PARTS:
            images = [f"images/{entry.name}\n" for entry in entries if entry.part == part]
            if images:
                write_text(self.folder / f"{part}.txt", "".join(images))
                lists[part] = f"{part}.txt"
        darknet = {"classes": len(names), **{part: lists[part] for part in ("train", "valid") if part in lists},
                   "names": f"{self.name}.names"}
        keys = {"train": "train", "valid": "val", "test": "test"}
        content = {keys[part]: path for part, path in lists.items()} | {"nc": len(names), "names": names}
        write_text(self.folder / f"{self.name}.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        write_text(self.folder / f"{self.name}.data", "".join(f"{key}={value}\n" for key, value in darknet.items()))


def _write_changed(path: Path, text: str) -> None:
    """Write a label that is not there yet, or is another."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
