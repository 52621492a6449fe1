"""Pictures of numbers, as PNG files."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter  # noqa: E402

from utils.writing import replacing  # noqa: E402


def _save(figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def plot_training(rows: list[dict], path: Path) -> None:
    """Curves of metrics.csv rows: loss parts, scores, and the quantiles of |gamma|."""
    epochs = [int(row["epoch"]) for row in rows]
    figure, (loss, scores, gamma) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for key, label in (("loss_box", "box"), ("loss_objectness", "objectness"), ("loss_class", "class")):
        loss.plot(epochs, [float(row[key]) for row in rows], label=label)
    loss.set(title="training loss per image", xlabel="epoch", yscale="log")
    for key, label in (("map50", "mAP@.5"), ("map", "AP@[.5:.95]"), ("precision", "precision"), ("recall", "recall")):
        known = [(epoch, float(row[key])) for epoch, row in zip(epochs, rows) if row[key] != ""]
        if known:
            scores.plot(*zip(*known), label=label, marker="." if len(known) < 40 else None)
    scores.set(title="validation", xlabel="epoch", ylim=(0, 1))
    for key in (key for key in rows[0] if key.startswith("gamma_q")):
        gamma.plot(epochs, [float(row[key]) for row in rows], label=f"{key[7:]} %")
    gamma.set(title="quantiles of prunable |gamma|", xlabel="epoch", ylim=(0, None))
    for axis in (loss, scores, gamma):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axis.lines:
            axis.legend(fontsize=8)
    _save(figure, path)


def plot_pr_curve(recall, precision, title: str, path: Path) -> None:
    """Precision against recall at IoU 0.5."""
    figure, axis = plt.subplots(figsize=(5, 4.4), layout="constrained")
    axis.plot(recall, precision)
    axis.set(title=title, xlabel="recall", ylabel="precision (envelope)", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    _save(figure, path)


def plot_gammas(kept: list[float], cut: list[float], path: Path) -> None:
    """Histogram of prunable |gamma|: of the channels that stay, and of those that go."""
    figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
    axis.hist([kept, cut], bins=80, stacked=True, color=["tab:blue", "tab:red"], label=[f"kept: {len(kept):,}", f"cut: {len(cut):,}"])
    axis.set(title=f"|gamma| of {len(kept) + len(cut):,} prunable channels", xlabel="|gamma|", ylabel="channels", yscale="log")
    axis.legend()
    _save(figure, path)


def plot_channels(layers: list[int], before: list[int], after: list[int], path: Path) -> None:
    """Bars of the channels a layer had and kept."""
    figure, axis = plt.subplots(figsize=(max(6, 0.17 * len(layers) + 2), 3.8), layout="constrained")
    places = range(len(layers))
    axis.bar(places, before, color="0.82", label="before")
    axis.bar(places, after, color="tab:blue", label="after")
    axis.set_xticks(places, [str(i) for i in layers], rotation=90, fontsize=7)
    axis.set(title="channels a layer", xlabel="layer", ylabel="channels", yscale="log")
    axis.legend()
    _save(figure, path)


def plot_tradeoff(curves: dict[str, list[dict]], path: Path) -> None:
    """mAP@.5 against parameters, FLOPs and, where it was measured, latency; name -> rows with the keys parameters, flops, latency_ms
    ("": unknown), map50 and maybe tuned_map50 ("": not tuned), which gets a row of axes of its own, of the best tenth."""
    labels = {"parameters": "parameters", "flops": "FLOPs (2 x MACs)", "latency_ms": "latency in ms, batch 1"}
    shown = [key for key in labels if any(row[key] != "" for rows in curves.values() for row in rows)]
    tuned = [row["tuned_map50"] for rows in curves.values() for row in rows if row.get("tuned_map50", "") != ""]
    scores = {"map50": ("mAP@.5 before fine-tuning" if tuned else "mAP@.5", (0, 1))}
    if tuned:
        scores["tuned_map50"] = ("after it (the best 0.1)", (max(max(tuned) - 0.1, min(tuned) - 0.005), max(tuned) + 0.005))
    figure, grid = plt.subplots(len(scores), len(shown), figsize=(4.8 * len(shown), 0.6 + 3.6 * len(scores)), layout="constrained",
                                sharex="col", sharey="row", squeeze=False)
    for axes, (score, (words, limits)) in zip(grid, scores.items()):
        axes[0].set(ylabel=words, ylim=limits)
        for axis, key in zip(axes, shown):
            for i, (name, rows) in enumerate(curves.items()):
                known = sorted((row[key], row[score]) for row in rows if row[key] != "" and row.get(score, "") != "")
                axis.plot(*(zip(*known) if known else ([], [])), color=f"C{i}", marker="o", markersize=4, label=name)
            axis.set(xscale="log")
            places = [row[key] for rows in curves.values() for row in rows if row[key] != ""]
            subs = (1, 2, 5) if max(places) < 50 * min(places) else (1,)  # over several decades their labels would run together
            axis.xaxis.set(major_locator=LogLocator(subs=subs), major_formatter=EngFormatter(sep=""), minor_formatter=NullFormatter())
            axis.grid(alpha=0.3, which="both")
    for axis, key in zip(grid[-1], shown):
        axis.set(xlabel=labels[key])
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    _save(figure, path)


def plot_sensitivity(rows: list[dict], shares: tuple[float, ...], path: Path) -> None:
    """Heat map of mAP@.5, one column a set of layers, one line a share of its channels; rows as utils.prune_explore writes them."""
    values = [[row[f"{share:g}"] for row in rows] for share in shares]
    figure, axis = plt.subplots(figsize=(max(6, 0.2 * len(rows) + 2), 3.2), layout="constrained")
    image = axis.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=max(row["0"] for row in rows))
    names = [row["layers"].split() for row in rows]
    axis.set_xticks(range(len(rows)), [own[0] + ("+" if len(own) > 1 else "") for own in names], rotation=90, fontsize=7)
    axis.set_yticks(range(len(shares)), [f"-{share:.0%}" for share in shares])
    axis.set(title="mAP@.5 when one layer alone loses channels (+: with the layers tied to it)", xlabel="layer")
    figure.colorbar(image, ax=axis)
    _save(figure, path)
