"""What an import found and made: a dict for report.json, text for the screen, Markdown."""

import shlex
from collections import Counter
from pathlib import Path

import numpy as np

from utils.data.anchors import kmeans_anchors, mean_best_iou
from utils.data.annotations import PARTS, Annotations
from utils.data.duplicates import NEAR, near_duplicates
from utils.data.labels import Entry
from utils.families import SMALL, SMALL_WIDTH
from utils.letterbox import fitting_scale
from utils.output import ascii_table, markdown_table

INPUT_SIDES = (256, 320, 416, 512, 608)  # square inputs worth suggesting
CELL_PX = 8  # finest grid of the three-headed nets
SMALL_SHARE = 0.1  # of the boxes may be smaller than a cell
ANCHORS = 9
ANCHOR_BOXES = 20_000  # boxes that are clustered, at most
SHOWN_CLASSES = 40
SHOWN_PAIRS = 50

MENDED = {"clipped": "boxes over the border, clipped", "outside": "boxes outside their picture, left out",
          "empty": "boxes without area, left out", "repeated": "boxes that repeat another of their picture, kept",
          "resized": "pictures of another size than annotated, of one shape: boxes scaled",
          "turned": "pictures written without their EXIF turn, as they were annotated",
          "listed twice": "pictures listed more than once, one kept",
          "bad": "faults, their pictures left out (--skip-bad)",
          "dropped empty": "pictures without a box, left out (--drop-empty)"}


def part_counts(entries: list[Entry], names: list[str]) -> dict[str, dict]:
    """part -> pictures, boxes, pictures without a box, boxes by class."""
    counts = {}
    for part in PARTS:
        mine = [entry for entry in entries if entry.part == part]
        boxes = Counter(row.name for entry in mine for row in entry.rows)
        if mine:
            counts[part] = {"images": len(mine), "boxes": sum(boxes.values()),
                            "images_without_box": sum(not entry.rows for entry in mine),
                            "boxes_per_class": {name: boxes[name] for name in names}}
    return counts


def fitted_sizes(entries: list[Entry], side: int) -> np.ndarray:
    """(N, 2) width and height in pixels of all boxes, their pictures letterboxed into a square of `side`."""
    fitted = [(fitting_scale(*entry.size, (side, side)) * np.array(entry.size), entry.rows) for entry in entries]
    return np.array([size * (row.w, row.h) for size, rows in fitted for row in rows]).reshape(-1, 2)


def suggested_side(entries: list[Entry]) -> int:
    """The smallest input at which nine boxes of ten are a cell of the finest grid or more on their shorter side.

    No larger than the pictures are: the median of their longer sides, rounded up to a side of the list.
    """
    longest = float(np.median([max(entry.size) for entry in entries]))
    sides = [side for side in INPUT_SIDES if side < longest] or [INPUT_SIDES[0]]
    sides += [side for side in INPUT_SIDES if side > sides[-1]][:1] * (longest > sides[-1])
    for side in sides:
        sizes = fitted_sizes(entries, side)
        if len(sizes) and np.quantile(sizes.min(1), SMALL_SHARE) >= CELL_PX:
            return side
    return sides[-1]


def suggest(entries: list[Entry], folder: Path, name: str) -> dict:
    """Input size, anchors for it, and the command that makes a cfg of that size with anchors of its own and trains
    it."""
    training = [entry for entry in entries if entry.part == "train"]
    side = suggested_side(training)
    sizes = fitted_sizes(training, side)
    if len(sizes) > ANCHOR_BOXES:
        sizes = np.random.default_rng(0).permutation(sizes)[:ANCHOR_BOXES]
    anchors = None
    if len(sizes) >= ANCHORS:
        anchors = kmeans_anchors(sizes, ANCHORS).round().clip(min=1).astype(int)
    data = shlex.quote(str(folder / f"{name}.yaml"))
    train = f"python train.py --data {data} --base {SMALL} --width {SMALL_WIDTH} --img_size {side}"
    return {"input_size": side, "anchors": None if anchors is None else anchors.tolist(),
            "mean_best_iou": None if anchors is None else round(mean_best_iou(sizes, anchors), 3),
            "commands": [train]}


def box_sizes(entries: list[Entry], side: int) -> dict:
    """Quantiles of the boxes' sides (root of the area), px, as they are and at an input of `side`; COCO's areas."""
    areas = [row.w * row.h * entry.size[0] * entry.size[1] for entry in entries for row in entry.rows]
    natural = np.sqrt(areas)
    if not len(natural):
        return {}
    fitted = np.sqrt(fitted_sizes(entries, side).prod(1))
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {"quantiles": list(quantiles), "px": np.quantile(natural, quantiles).round(1).tolist(),
            "px_at_input": np.quantile(fitted, quantiles).round(1).tolist(),
            "small_medium_large": [round(float(share), 3) for share in (
                (natural < 32).mean(), ((natural >= 32) & (natural < 96)).mean(), (natural >= 96).mean())]}


def duplicates(entries: list[Entry]) -> dict:
    """Pictures of each other part that have a near-duplicate in train."""
    training = [entry for entry in entries if entry.part == "train"]
    found = {"bits": NEAR}
    for part in ("valid", "test"):
        mine = [entry for entry in entries if entry.part == part]
        pairs = near_duplicates([e.picture.hash for e in training], [e.picture.hash for e in mine])
        found[part] = {"images": len(pairs),
                       "pairs": [[mine[j].name, training[i].name, bits] for i, j, bits in pairs[:SHOWN_PAIRS]]}
    return found


def collect(annotations: Annotations, entries: list[Entry], counts: Counter, about: dict) -> dict:
    """All of the report. about: folder (Path), name, source, format, split (words), dropped, left_out (Counters)."""
    names = annotations.names
    advice = suggest(entries, about["folder"], about["name"])
    return {"source": str(about["source"]), "format": about["format"], "classes": names, "split": about["split"],
            "parts": part_counts(entries, names), "box_sizes": box_sizes(entries, advice["input_size"]),
            "mended": {key: counts[key] for key in MENDED if counts[key]}, "left_out_by_flag": dict(about["dropped"]),
            "left_out_by_class": dict(about["left_out"]), "notes": annotations.notes,
            "near_duplicates": duplicates(entries), "suggestion": advice}


def _tables(report: dict) -> list[list[list]]:
    """Rows of the two tables: lists, and classes."""
    parts = report["parts"]
    lists = [["list", "pictures", "boxes", "without a box"]]
    keys = ("images", "boxes", "images_without_box")
    lists += [[part, *(f"{row[key]:,}" for key in keys)] for part, row in parts.items()]
    classes = [["class", *(f"boxes in {part}" for part in parts)]]
    classes += [[name, *(f"{row['boxes_per_class'][name]:,}" for row in parts.values())] for name in report["classes"]]
    return [lists, classes]


def remarks(report: dict) -> list[str]:
    """What the reader has to know, a line each."""
    lines = [f"split {report['split']}"]
    lines += [f"{MENDED[key]}: {count:,}" for key, count in report["mended"].items()]
    by_flag = report["left_out_by_flag"]
    lines += [f"boxes flagged {flag}, left out (--drop): {count:,}" for flag, count in by_flag.items()]
    if report["left_out_by_class"]:
        several = report["left_out_by_class"]
        lines.append(f"boxes of other classes ({', '.join(list(several)[:5])}{', ...' * (len(several) > 5)}), left out "
                     f"(--classes): {sum(several.values()):,}")
    lines += report["notes"]
    for part in ("valid", "test"):
        count = report["near_duplicates"][part]["images"]
        if count and part in report["parts"]:
            whole = report["parts"][part]["images"]
            lines.append(f"{part} pictures with a near-duplicate in train (at most {NEAR} of 256 bits apart), on which "
                         f"scores flatter: {count:,} of {whole:,}")
    for part, row in report["parts"].items():
        absent = [name for name, count in row["boxes_per_class"].items() if not count]
        if absent:
            more = f" and {len(absent) - 10} more" * (len(absent) > 10)
            lines.append(f"no box in {part} of: {', '.join(absent[:10])}{more}")
    return lines


def sizes_line(report: dict) -> list[str]:
    """Box sizes and the suggestion in words."""
    sizes, advice = report["box_sizes"], report["suggestion"]
    if not sizes:
        return ["no box at all"]
    small, medium, large = (f"{100 * share:.0f} %" for share in sizes["small_medium_large"])
    lines = ["box sides, px (5, 25, 50, 75, 95 % of the boxes): " + ", ".join(f"{side:.0f}" for side in sizes["px"])
             + f"; at an input of {advice['input_size']}: " + ", ".join(f"{side:.0f}" for side in sizes["px_at_input"]),
             f"by COCO's areas: {small} small (under 32 x 32), {medium} medium, {large} large (from 96 x 96)"]
    if advice["anchors"]:
        lines.append(f"suggested input {advice['input_size']}, anchors "
                     + "  ".join(f"{width},{height}" for width, height in advice["anchors"])
                     + f" (mean best IoU {advice['mean_best_iou']:.3f})")
    return lines


def as_text(report: dict) -> str:
    """The report for the screen."""
    lists, classes = _tables(report)
    shown = classes[:SHOWN_CLASSES + 1]
    more = [f"and {len(classes) - len(shown)} more classes: report.md"] if len(classes) > len(shown) else []
    commands = [f"  {line}" for line in report["suggestion"]["commands"]]
    return "\n".join([f"{report['source']}: {report['format']}", ascii_table(lists), ascii_table(shown), *more,
                      *sizes_line(report), *remarks(report), "next:", *commands])


def as_markdown(report: dict) -> str:
    """The report as a page, with the contact sheet."""
    lists, classes = _tables(report)
    parts = [f"# Imported from {report['source']} ({report['format']})", markdown_table(lists), markdown_table(classes),
             "\n".join(f"- {line}" for line in sizes_line(report) + remarks(report)),
             "Next:", "\n".join(f"    {line}" for line in report["suggestion"]["commands"]),
             "![Pictures with their boxes](contact_sheet.jpg)"]
    return "\n\n".join(parts) + "\n"
