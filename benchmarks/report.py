"""The demo's last page: one table, what it shows and does not, and the pictures, in a single HTML file."""

import base64
import html
from pathlib import Path

from models import Darknet
from utils.checkpoint import load_weights
from utils.darknet_weights import darknet_bytes
from utils.profile import compare_latency
from utils.shapes import total_cost
from utils.tables import ascii_table, change
from utils.writing import write_json, write_text

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:.3em .8em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}h2{margin-top:2em}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:8px}figure{margin:0}figcaption{font-size:14px;color:#555}"""


def final_table(root: Path, dense: tuple[Path, Path], slim: tuple[Path, Path], scores: dict, size: int) -> tuple[list, list, str]:
    """Compare (cfg, weights) of the dense and the pruned net: (table rows, verdict lines, timing protocol); printed as well."""
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
    goals = [("parameters at least 80 % fewer", parameters[1] <= 0.2 * parameters[0]),
             ("FLOPs at least 70 % fewer", macs[1] <= 0.3 * macs[0]),
             ("latency at least halved", times[1].median <= 0.5 * times[0].median),
             ("mAP within 0.02 of the dense baseline", maps[1] >= maps[0] - 0.02), ("mAP 0.80 or more", min(maps) >= 0.8)]
    verdicts = [f"{'yes' if reached else 'NO '}  {goal}" for goal, reached in goals]
    print("\n" + ascii_table(rows))
    print("\n".join(verdicts))
    print(f"inference: {times[0].protocol}")
    return rows, verdicts, times[0].protocol


def _picture(path: Path, caption: str) -> str:
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def _pair(left: str, right: str) -> str:
    return f'<div class="pair">{left}{right}</div>'


def write_report(folder: Path, rows: list[list], verdicts: list[str], footer: str) -> None:
    """report.html and table.json in `folder` (logs/demo), pictures included in the page."""
    table = "".join("<tr>" + "".join(f"<{cell}>{html.escape(str(value))}</{cell}>" for value in row) + "</tr>"
                    for row, cell in zip(rows, ["th"] + ["td"] * len(rows)))
    pruned = folder / "pruned"
    stem = next(pruned.glob("*-pruned.cfg")).stem
    parts = [f"<h1>Pruning a YOLOv3-tiny hand detector</h1><table>{table}</table><pre>{html.escape(chr(10).join(verdicts))}</pre>",
             "<h2>Gammas and channels</h2>",
             _picture(pruned / f"{stem}-gammas.png", "Batch-norm gammas after sparse training; what lies left of the line is cut"),
             _picture(pruned / f"{stem}-channels.png", "Channels of each layer before and after"),
             "<h2>Precision and recall</h2>",
             _pair(_picture(folder / "pr_dense.png", "dense"), _picture(folder / "pr_pruned.png", "pruned and fine-tuned")),
             "<h2>Detections on test pictures</h2>"]
    for path in sorted((folder / "detect_dense").glob("*.jpg")):
        parts.append(_pair(_picture(path, "dense"), _picture(folder / "detect_pruned" / path.name, "pruned and fine-tuned")))
    parts.append("<h2>Training</h2>")
    parts += [_picture(folder / stage / "curves.png", stage) for stage in ("baseline", "sparse", "tuned")]
    parts.append(f"<p>{html.escape(footer)}</p>")
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Pruned hand detector</title><style>{STYLE}</style>{"".join(parts)}</html>'
    write_text(folder / "report.html", page)
    write_json(folder / "table.json", {"rows": rows, "verdicts": verdicts, "footer": footer})
