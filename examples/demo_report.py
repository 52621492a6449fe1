"""The demo's last page: one table, what it shows and does not, and the pictures, in a single HTML file."""

import base64
import html
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models import Darknet
from utils.checkpoint import load_weights
from utils.compare import compare_latency
from utils.darknet_weights import darknet_bytes
from utils.data.image_files import read_image
from utils.data.yolo_labels import label_path, read_labels
from utils.deploy.drawing import draw
from utils.deploy.results import write_picture
from utils.output import ascii_table, change, write_json, write_text
from utils.shapes import total_cost

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:.3em .8em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}h2{margin-top:2em}
.beside{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:8px}pre{overflow-x:auto}
figure{margin:0}figcaption{font-size:14px;color:#555}"""


class FinalTable(NamedTuple):
    """The numbers of the demo: table rows (the first is the header), a line per aim, a sentence, and how time was
    measured."""

    rows: list[list]
    verdicts: list[str]
    conclusion: str
    protocol: str


def final_table(root: Path, dense: tuple[Path, Path], slim: tuple[Path, Path], scores: dict,
                size: int) -> FinalTable:
    """Compare (cfg, weights) of the dense and the pruned net; printed as well."""
    models = []
    for cfg, weights in (dense, slim):
        model = Darknet(root / cfg)
        load_weights(model, root / weights)
        models.append(model)
    times = compare_latency(models, (size, size), repeats=100, warmup=10)
    costs = [total_cost(model.module_defs, size, size) for model in models]
    files = [darknet_bytes(model) for model in models]
    maps = [scores[key]["map50"] for key in ("dense", "pruned")]
    parameters, macs = [cost.parameters for cost in costs], [cost.macs for cost in costs]
    rows = [["Metric", "Dense", "Pruned, fine-tuned", "Change"],
            ["mAP@.5", *[f"{value:.4f}" for value in maps], f"{maps[1] - maps[0]:+.4f}"],
            ["AP@[.5:.95]", *[f"{scores[key]['map']:.4f}" for key in ("dense", "pruned")],
             f"{scores['pruned']['map'] - scores['dense']['map']:+.4f}"],
            ["parameters", *[f"{value:,}" for value in parameters], change(*parameters)],
            ["weights file MB", *[f"{value / 1e6:.2f}" for value in files], change(*files)],
            ["FLOPs (G, 2 x MACs)", *[f"{value / 5e8:.3f}" for value in macs], change(*macs)],
            ["inference (quartiles)", *times, change(times[0].median, times[1].median)]]
    goals = [
        ("parameters at least 80 % fewer", parameters[1] <= 0.2 * parameters[0]),
        ("FLOPs at least 70 % fewer", macs[1] <= 0.3 * macs[0]),
        ("latency at least halved", times[1].median <= 0.5 * times[0].median),
        ("mAP within 0.02 of the dense baseline", maps[1] >= maps[0] - 0.02),
        ("mAP 0.80 or more", min(maps) >= 0.8),
    ]
    verdicts = [f"{'yes' if reached else 'NO '}  {goal}" for goal, reached in goals]
    print("\n" + ascii_table(rows))
    print("\n".join(verdicts))
    print(f"inference: {times[0].protocol}")
    words = conclusion(parameters, macs, [time.median for time in times], maps)
    print(words)
    return FinalTable(rows, verdicts, words, times[0].protocol)


def conclusion(parameters: list[int], macs: list[int], seconds: list[float], maps: list[float]) -> str:
    """What pruning brought, in a sentence; every list holds the dense net's value and the pruned one's."""
    fewer = [f"{100 * (1 - after / before):.0f} % fewer" for before, after in (parameters, macs)]
    return (f"The pruned net has {fewer[0]} parameters, needs {fewer[1]} multiply-adds and takes "
            f"{100 * seconds[1] / seconds[0]:.0f} % of the time per picture; its mAP@.5 is {maps[1]:.3f}, that of the "
            f"dense net {maps[0]:.3f}.")


def draw_truth(pictures: list[Path], folder: Path) -> None:
    """The pictures with their labelled boxes, into `folder`, under their own names."""
    for path in pictures:
        image = read_image(path)
        boxes = read_labels(label_path(path), 1)  # class, cx, cy, w, h relative to the picture
        centres, half = boxes[:, 1:3], boxes[:, 3:5] / 2
        corners = np.hstack([centres - half, centres + half]) * np.tile(image.shape[1::-1], 2)
        rows = np.hstack([corners, np.ones((len(boxes), 1)), boxes[:, :1]])
        write_picture(folder / path.name, draw(image, rows, ["labelled"], scores=False))


def _picture(path: Path, caption: str) -> str:
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    data = base64.b64encode(path.read_bytes()).decode()
    words = html.escape(caption)
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _beside(*figures: str) -> str:
    return f'<div class="beside">{"".join(figures)}</div>'


def _detections(folder: Path) -> list[str]:
    """The labelled boxes of each picture beside those that the two nets found."""
    shown = {"truth": "labelled", "detect_dense": "dense", "detect_pruned": "pruned and fine-tuned"}
    return [_beside(*[_picture(folder / part / path.name, words) for part, words in shown.items()])
            for path in sorted((folder / "truth").glob("*.jpg"))]


def _mistakes(folder: Path) -> list[str]:
    """The pictures on which the pruned net is wrong most often, if it is at all."""
    sheet = folder / "mistakes_pruned.jpg"
    words = "the test pictures with the most mistakes: red is missed, orange a false alarm, green found"
    return ["<h2>Where the pruned network fails</h2>", _picture(sheet, words)] if sheet.exists() else []


def write_report(folder: Path, final: FinalTable, footer: str) -> None:
    """report.html and table.json in `folder` (logs/demo), pictures included in the page."""
    rows, verdicts = final.rows, final.verdicts
    table = "".join("<tr>" + "".join(f"<{cell}>{html.escape(str(value))}</{cell}>" for value in row) + "</tr>"
                    for row, cell in zip(rows, ["th"] + ["td"] * len(rows)))
    pruned = folder / "pruned"
    stem = next(pruned.glob("*-pruned.cfg")).stem
    parts = [
        f"<h1>Pruning a YOLOv3-tiny hand detector</h1><table>{table}</table>"
        f"<p><b>{html.escape(final.conclusion)}</b></p>"
        f"<pre>{html.escape(chr(10).join(verdicts))}</pre>",
        "<h2>Detections on test pictures</h2>",
        *_detections(folder),
        *_mistakes(folder),
        "<h2>Gammas and channels</h2>",
        _picture(pruned / f"{stem}-gammas.png", "Batch-norm gammas after sparse training: which are cut"),
        _picture(pruned / f"{stem}-channels.png", "Channels of each layer before and after"),
        "<h2>Precision and recall</h2>",
        _beside(
            _picture(pruned / f"{stem}-pr.png", "after sparse training, and when pruned"),
            _picture(folder / "pr_dense.png", "dense"),
            _picture(folder / "pr_pruned.png", "pruned and fine-tuned"),
        ),
        "<h2>Training</h2>",
    ]
    parts += [_picture(folder / stage / "curves.png", stage) for stage in ("baseline", "sparse", "tuned")]
    commands = (folder / "commands.txt").read_text(encoding="utf-8")
    parts.append(f"<h2>Commands</h2><pre>{html.escape(commands)}</pre><p>{html.escape(footer)}</p>")
    head = f'<meta charset="utf-8"><title>Pruned hand detector</title><style>{STYLE}</style>'
    page = f'<!doctype html><html lang="en">{head}{"".join(parts)}</html>'
    write_text(folder / "report.html", page)
    write_json(folder / "table.json", final._asdict() | {"footer": footer})
