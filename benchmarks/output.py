"""What a benchmark run leaves behind: tables on the screen and in Markdown, numbers as JSON, one picture an item."""

import importlib.metadata
import os
import shlex
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)

from utils.output import ascii_table, environment, markdown_table, replacing, write_json, write_text

PACKAGES = ("torchvision", "numpy", "opencv-python", "onnx", "onnxruntime", "openvino", "nncf", "ncnn",
            "ai-edge-litert", "pycocotools")
LOG_FROM = 30  # ratio of the longest to the shortest bar from which a logarithmic axis is needed


def conditions(threads: int, words: list[str]) -> dict:
    """The machine, versions, date and command line of a run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        **environment(),
        "threads": threads,
        **versions,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "command": shlex.join(["python", "-m", "benchmarks", *words]),
    }


def describe(environment: dict) -> str:
    """The conditions in two lines."""
    versions = ", ".join(f"{name} {environment[name]}" for name in ("python", "torch", *PACKAGES))
    load = "" if environment["load"] is None else f", load {environment['load']:.2f} at the start"
    return (f"{environment['processor']}, {environment['cores']} cores, {environment['threads']} threads for every "
            f"contestant{load}, {environment['date']}, commit {environment['commit']}\n{versions}")


def duration(seconds: float) -> str:
    """Seconds as 12.3 s, 4.56 ms or 78.9 us, three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            break
    value = seconds / scale
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"


def rows_of(item: dict) -> list[list[str]]:
    """Header and one line per contestant. Memory is the peak of the process, set-up included, and what of it is over
    the imported libraries. An item may have a table of its own."""
    if "table" in item:
        return item["table"]
    speed = [f"{item['unit']}/s"] if item["unit"] else []
    header = ["Contestant", "median", "quartiles", "n", "time / first", "quartiles", *speed, "set-up", "peak MB",
              "over imports", "note"]
    rows = [header]
    for row in item["contestants"]:
        if row["error"] and not row["n"]:
            rows.append([row["name"], *["-"] * (len(header) - 2), shorten(row["error"])])
            continue
        ratio = ["-", "-"]
        if "ratio" in row:
            ratio = [f"{row['ratio']:.3g}", f"{row['ratio_low']:.3g} - {row['ratio_high']:.3g}"]
        per_second = [f"{row[item['unit'] + '_per_s']:.1f}"] if speed else []
        rows.append([row["name"], duration(row["median_s"]), f"{duration(row['low_s'])} - {duration(row['high_s'])}",
                     str(row["n"]), *ratio, *per_second, duration(row["setup_s"]), megabytes(row["peak_mb"]),
                     megabytes(over_imports(row)), note(row)])
    return rows


def megabytes(value: float | None) -> str:
    """Whole MB; "-" where it is not known."""
    return "-" if not value else f"{value:.0f}"


def over_imports(row: dict) -> float | None:
    """What building and running took over the memory that the imported libraries take."""
    return row["peak_mb"] - row["imports_mb"] if row["peak_mb"] and row["imports_mb"] else None


def note(row: dict) -> str:
    """A contestant's facts, or why it stopped."""
    facts = ", ".join(
        f"{key.replace('_', ' ')} {value:.1g}"
        if isinstance(value, float) and value < 1e-2
        else f"{key.replace('_', ' ')} {value}"
        for key, value in row["facts"].items()
    )
    return f"stopped: {shorten(row['error'])}" if row["error"] else facts


def shorten(text: str, length: int = 90) -> str:
    """At most so many characters; the JSON has all of it."""
    return text if len(text) <= length else text[:length - 3] + "..."


def screen(item: dict) -> str:
    """An item as a table with its remarks."""
    return "\n".join(["", item["title"], ascii_table(rows_of(item)), *item["remarks"]])


def markdown(results: dict) -> str:
    """All items of a run."""
    parts = [
        "# Benchmarks",
        f"`{results['environment']['command']}`",
        describe(results["environment"]).replace("\n", "\n\n"),
        'Times are medians of runs measured alternately, each contestant in a process of its own; "time / first" is '
        "the median over rounds of "
        "the time relative to the first contestant's in the same round. Memory: peak of the process in MB of 2^20 "
        "bytes, set-up included, and what of it is over the imported libraries.",
    ]
    for item in results["items"]:
        parts += [f"## {item['name']}", item["title"], markdown_table(rows_of(item)), "  \n".join(item["remarks"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_results(results: dict, out: Path, json_file: Path | None) -> None:
    """results.json, table.md and a PNG an item in `out`; the JSON also where --json wants it."""
    for path in (out / "results.json", *([json_file] if json_file else [])):
        write_json(path, results)
    write_text(out / "table.md", markdown(results))
    for item in results["items"]:
        picture(item, results["environment"], out / f"{item['name']}.png")


def picture(item: dict, environment: dict, path: Path) -> None:
    """Horizontal bars of the medians with whiskers at the quartiles; who could not run is named beside an empty bar."""
    rows = item["contestants"]
    timed = [row for row in rows if row["n"]]
    if not timed:
        return
    figure, axis = plt.subplots(figsize=(9.5, 1.5 + 0.36 * len(rows)), layout="constrained")
    logarithmic = max(row["median_s"] for row in timed) > LOG_FROM * min(row["median_s"] for row in timed)
    longest = max(row["high_s"] for row in timed)
    start = min(row["low_s"] for row in timed) / 3 if logarithmic else 0
    for place, row in enumerate(rows):
        if row["n"]:
            _bar(axis, place, row, start, row["name"] == item["baseline"])
        else:
            axis.text(start or longest * 0.005, place, shorten(row["error"], 70), va="center", fontsize=8, color="0.45")
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
    machine = f"{environment['processor']}, {environment['threads']} threads"
    words = (f"seconds per run{' (logarithmic)' if logarithmic else ''}: median, whiskers at the quartiles; "
             f"in brackets time / first.  {machine}")
    axis.set(xlabel=words, ylim=(len(rows) - 0.4, -0.6),
             xscale="log" if logarithmic else "linear", xlim=(start or None, longest * (4 if logarithmic else 1.22)))
    if not logarithmic:
        axis.set_xlim(0)
    axis.set_title(wrapped(item["title"]), fontsize=10, loc="left")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    axis.xaxis.label.set_fontsize(8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _bar(axis, place: int, row: dict, start: float, is_baseline: bool) -> None:
    """One contestant's bar from `start`, its time in words behind it."""
    median, low, high = row["median_s"], row["low_s"], row["high_s"]
    colour = "0.6" if is_baseline else "tab:green" if row["name"].startswith("pruned") else "tab:blue"
    axis.barh(place, median - start, left=start, xerr=[[median - low], [high - median]], color=colour, height=0.7,
              ecolor="0.2", capsize=3)
    words = duration(median) + (f"  ({row['ratio']:.2g}x)" if "ratio" in row and not is_baseline else "")
    axis.annotate(words, (high, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)


def wrapped(text: str, width: int = 105) -> str:
    """A title in lines that fit the picture."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word} "
    return "\n".join(line.rstrip() for line in lines)
