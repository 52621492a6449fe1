"""Pictures of numbers, in the format that a file is named for (.png, .jpg, .pdf, .svg), else as PNG."""

import itertools
import math
import textwrap
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter  # noqa: E402

from utils.output import replacing  # noqa: E402

MOST_TICKS = 30  # classes that can be named, and counted, beside each other


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Creating legend")  # that it takes a second, as on a busy machine
        kind = path.suffix[1:].lower()
        figure.savefig(temporary, dpi=110, format=kind if kind in figure.canvas.get_supported_filetypes() else "png")
    plt.close(figure)


def plot_training(rows: list[dict], path: Path) -> None:
    """Curves of metrics.csv rows: loss parts, scores, and the quantiles of |gamma|; a single epoch is a point."""
    epochs = [int(row["epoch"]) for row in rows]
    marker = "." if len(epochs) < 40 else None
    figure, (loss, scores, gamma) = plt.subplots(1, 3, figsize=(13.5, 3.8), layout="constrained")
    for key, label in (("loss_box", "box"), ("loss_objectness", "objectness"), ("loss_class", "class")):
        values = [float(row[key]) for row in rows]
        if any(value > 0 for value in values):  # a net of one class has no class loss, and a log axis no 0
            loss.plot(epochs, values, label=label, marker=marker)
    loss.set(title="training loss", ylabel="loss per image", yscale="log")
    for key, label in (("map50", "mAP@.5"), ("map", "AP@[.5:.95]"), ("precision", "precision"), ("recall", "recall")):
        known = [(epoch, float(row[key])) for epoch, row in zip(epochs, rows) if row[key] != ""]
        if known:
            scores.plot(*zip(*known), label=label, marker=marker)
    scores.set(title="validation", ylabel="score", ylim=(-0.02, 1.02))
    for key in (key for key in rows[0] if key.startswith("gamma_q")):
        gamma.plot(epochs, [float(row[key]) for row in rows], label=f"{key[7:]} %", marker=marker)
    gamma.set(title="quantiles of prunable |gamma|", ylabel="|gamma|", ylim=(0, None))
    for axis in (loss, scores, gamma):
        axis.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axis.lines:
            axis.legend(fontsize=8)
    _few_decades(loss)
    _save(figure, path)


def _few_decades(axis) -> None:
    """Labels as plain numbers on a log axis that spans little, where powers of ten would leave it without any."""
    low, high = axis.get_ylim()
    if high < 30 * low:
        axis.yaxis.set(
            major_locator=LogLocator(subs=(1, 2, 3, 5, 7)), major_formatter="{x:g}", minor_formatter=NullFormatter()
        )
    if high < 2.5 * low:
        axis.set(yscale="linear", ylim=(low, high))


def plot_pr_curves(curves: dict[str, tuple], title: str, path: Path) -> None:
    """Precision (envelope) against recall; name -> (recall, precision), one line per name. Without detections a curve
    is empty."""
    figure, axis = plt.subplots(figsize=(5, 4.4), layout="constrained")
    for (name, (recall, precision)), style in zip(curves.items(), itertools.cycle(("-", "--", ":"))):
        axis.plot(recall, precision, style, label=textwrap.shorten(name, 60, placeholder="..."))
    if not any(len(recall) for recall, _ in curves.values()):
        axis.text(0.5, 0.5, "no detections", ha="center", color="0.4")
    axis.set(xlabel="recall", ylabel="precision (envelope)", xlim=(0, 1), ylim=(0, 1.02))
    axis.set_title(textwrap.fill(title, 48), fontsize=11)
    axis.grid(alpha=0.3)
    if len(curves) > 1:
        axis.legend(fontsize=8, loc="lower left")
    _save(figure, path)


def plot_gammas(gammas: dict[str, list[float]], threshold: float | None, path: Path) -> None:
    """Histogram of prunable |gamma|; "kept", "carrier" and "cut" -> values. threshold: the |gamma| below which channels
    go, drawn as a line; None where the channels were not chosen by |gamma| alone."""
    colours = {"kept": "tab:blue", "carrier": "tab:orange", "cut": "tab:red"}
    shown = {name: values for name, values in gammas.items() if len(values)}
    count = sum(map(len, shown.values()))
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    axis.hist(list(shown.values()), bins=80, stacked=True, color=[colours[name] for name in shown],
              label=[f"{name}: {len(values):,}" for name, values in shown.items()])
    if threshold is not None:
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold: {threshold:.3g}")
    axis.set(title=f"|gamma| of {count:,} prunable channels", xlabel="|gamma|", ylabel="channels", yscale="log")
    axis.set_ylim(0.7)  # a bar of one channel shows
    axis.yaxis.set(major_locator=LogLocator(), major_formatter="{x:g}", minor_formatter=NullFormatter())
    axis.legend(fontsize=8)
    _save(figure, path)


def plot_channels(layers: list[int], before: list[int], after: list[int], path: Path) -> None:
    """Bars of the channels that each layer had and kept: their numbers above, the share that was kept below."""
    figure, (counts, shares) = plt.subplots(2, 1, figsize=(min(max(6, 0.14 * len(layers) + 2), 16), 5.2), sharex=True,
                                            layout="constrained")
    places = range(len(layers))
    counts.bar(places, before, width=0.85, color="0.82", label="before")
    counts.bar(places, after, width=0.85, color="tab:blue", label="after")
    counts.set(
        title="channels per layer", ylabel="channels", yscale="log", ylim=(max(min(after) / 2, 0.5), 1.5 * max(before))
    )
    counts.yaxis.set(major_locator=LogLocator(), major_formatter="{x:g}", minor_formatter=NullFormatter())
    counts.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    shares.bar(places, [100 * kept / had for had, kept in zip(before, after)], width=0.85, color="tab:blue")
    shares.set(ylabel="kept, %", xlabel="layer of the cfg", ylim=(0, 100), xlim=(-0.8, len(layers) - 0.2))
    shares.grid(axis="y", alpha=0.3)
    step = math.ceil(len(layers) / 60)  # so many labels stand beside each other
    shares.set_xticks(places[::step], [str(i) for i in layers[::step]], rotation=90, fontsize=7)
    _save(figure, path)


def plot_tradeoff(curves: dict[str, list[dict]], path: Path) -> None:
    """mAP@.5 against parameters, FLOPs and, where it was measured, latency; name -> rows with the keys parameters,
    flops, latency_ms ("": unknown), map50 and maybe tuned_map50 ("": not tuned), which gets a row of axes of its own,
    of the best tenth."""
    labels = {"parameters": "parameters", "flops": "FLOPs (2 x MACs)", "latency_ms": "latency in ms, batch 1"}
    shown = [key for key in labels if any(row[key] != "" for rows in curves.values() for row in rows)]
    tuned = [row["tuned_map50"] for rows in curves.values() for row in rows if row.get("tuned_map50", "") != ""]
    scores = {"map50": ("mAP@.5 before fine-tuning" if tuned else "mAP@.5", (0, 1))}
    if tuned:
        scores["tuned_map50"] = (
            "after it (the best 0.1)",
            (max(max(tuned) - 0.1, min(tuned) - 0.005), max(tuned) + 0.005),
        )
    figure, grid = plt.subplots(len(scores), len(shown), figsize=(4.8 * len(shown), 0.6 + 3.6 * len(scores)),
                                layout="constrained", sharex="col", sharey="row", squeeze=False)
    for axes, (score, (words, limits)) in zip(grid, scores.items()):
        axes[0].set(ylabel=words, ylim=limits)
        for axis, key in zip(axes, shown):
            _draw_tradeoff(axis, curves, key, score)
    for axis, key in zip(grid[-1], shown):
        axis.set(xlabel=labels[key])
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    _save(figure, path)


def _draw_tradeoff(axis, curves: dict[str, list[dict]], key: str, score: str) -> None:
    """One score against one cost, a curve per name."""
    for i, (name, rows) in enumerate(curves.items()):
        known = sorted((row[key], row[score]) for row in rows if row[key] != "" and row.get(score, "") != "")
        axis.plot(*(zip(*known) if known else ([], [])), color=f"C{i}", marker="o", markersize=4, label=name)
    places = [row[key] for rows in curves.values() for row in rows if row[key] != ""]
    # over several decades their labels would run together
    subs = (1, 2, 5) if max(places) < 50 * min(places) else (1,)
    axis.set(xscale="log")
    axis.xaxis.set(major_locator=LogLocator(subs=subs), major_formatter=EngFormatter(sep=""),
                   minor_formatter=NullFormatter())
    axis.grid(alpha=0.3, which="both")


def plot_sensitivity(rows: list, shares: tuple[float, ...], path: Path) -> None:
    """Heat map of mAP@.5, one column per set of layers, one line per share of its channels; rows:
    utils.pruning.analysis.Sensitivity."""
    values = list(zip(*(row.map50 for row in rows)))
    figure, axis = plt.subplots(figsize=(max(6, 0.2 * len(rows) + 2), 3.2), layout="constrained")
    image = axis.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=max(row.dense for row in rows))
    names = [f"{row.layers[0]}{'+' if len(row.layers) > 1 else ''}" for row in rows]
    axis.set_xticks(range(len(rows)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(shares)), [f"-{share:.0%}" for share in shares])
    axis.set(title="mAP@.5 when one layer alone loses channels (+: with the layers tied to it)", xlabel="layer")
    figure.colorbar(image, ax=axis)
    _save(figure, path)


def plot_labels(labels: np.ndarray, names: list[str], path: Path) -> None:
    """What is labelled: boxes per class, their outlines about one centre, their places and their sizes. labels: (n, 5)
    class, cx, cy, w, h as fractions of the picture."""
    figure, ((counts, outlines), (places, sizes)) = plt.subplots(2, 2, figsize=(9, 8.4), layout="constrained")
    per_class = np.bincount(labels[:, 0].astype(int), minlength=len(names))
    counts.bar(range(len(names)), per_class, color=[f"C{i % 10}" for i in range(len(names))], width=0.8)
    counts.set(title=f"{len(labels):,} boxes", ylabel="boxes", xlim=(-0.9, len(names) - 0.1))
    few = len(names) <= MOST_TICKS
    ticks = (range(len(names)), _short_names(names)) if few else ([], [])
    counts.set_xticks(*ticks, rotation=90 if len(names) > 4 else 0)
    shown = labels[np.random.default_rng(0).permutation(len(labels))[:500]]
    for label, _, _, w, h in shown:
        outlines.add_patch(plt.Rectangle((0.5 - w / 2, 0.5 - h / 2), w, h, fill=False, linewidth=0.5,
                                         edgecolor=f"C{int(label) % 10}", alpha=0.5))
    outlines.set(title="sizes, about one centre", xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    places.hist2d(labels[:, 1], labels[:, 2], bins=50, range=((0, 1), (0, 1)), cmap="Blues")
    places.set(title="centres", xlabel="x, share of the width", ylabel="y, share of the height")
    places.invert_yaxis()
    sizes.hist2d(labels[:, 3], labels[:, 4], bins=50, range=((0, 1), (0, 1)), cmap="Blues")
    sizes.set(title="sizes", xlabel="width, share of the picture's", ylabel="height, share of the picture's")
    _save(figure, path)


def plot_confusion(counts: np.ndarray, names: list[str], path: Path) -> None:
    """Confusion matrix, (K + 1, K + 1) counts of utils.evaluation.confusion, coloured by the share of a column."""
    labels = [*_short_names(names), "nothing"]
    side = min(max(4.2, 0.42 * len(labels) + 2.4), 16)
    figure, axis = plt.subplots(figsize=(side * 1.15, side), layout="constrained")
    shares = counts / counts.sum(axis=0, keepdims=True).clip(min=1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= MOST_TICKS:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                axis.text(j, i, f"{count:,}", ha="center", va="center", fontsize=8,
                          color="white" if shares[i, j] > 0.6 else "black")
    font = 9 if len(labels) <= MOST_TICKS else 5
    axis.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 4 else 0, fontsize=font)
    axis.set_yticks(range(len(labels)), labels, fontsize=font)
    axis.set(xlabel="labelled as", ylabel="detected as", title="boxes; colour: share of the column")
    figure.colorbar(image, ax=axis)
    _save(figure, path)


def _short_names(names: list[str]) -> list[str]:
    """Class names as labels of an axis: no formula, at most 16 letters."""
    return [name.replace("$", r"\$") if len(name) <= 16 else name[:14].replace("$", r"\$") + "..." for name in names]
