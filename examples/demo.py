"""The whole road on drawn hands: python examples/demo.py (or make demo). About ten minutes on two cores.

Runs the scripts a user would run, prints every command line, and ends with one table and logs/demo/report.html.
Everything is kept in data/demo and logs/demo; a user's data, checkpoints and weights are not touched.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils import cli  # noqa: E402

DATA, LOGS = Path("data/demo"), Path("logs/demo")
SIZE = 160
EPOCHS = {"baseline": 3, "sparse": 2, "tuned": 2}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of the demo."""
    p = cli.Parser(description=__doc__)
    p.add_argument("--seed", type=cli.seed, default=0, help="of the drawings and of every training")
    p.add_argument("--target-flops", type=cli.ratio, default=0.28, help="share of the FLOPs to cut to")
    p.add_argument("--keep-data", action="store_true", help="use the pictures of an earlier run")
    return p.parse_args(argv)


def run(*command: object) -> None:
    """Run one of the project's scripts, its command line printed first; stop when it fails."""
    words = [str(word) for word in command]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    with open(ROOT / LOGS / "commands.txt", "a", encoding="utf-8") as file:  # for the report
        file.write(f"python {shlex.join(words)}\n")
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def make_data(seed: int, keep: bool) -> None:
    """Draw the set in the Oxford release's layout and convert it as the real one."""
    if not keep:
        shutil.rmtree(ROOT / DATA, ignore_errors=True)
    run("data/synthesize_hands.py", "--out", DATA, "--train", 1900, "--valid", 100, "--test", 300, "--size", 192,
        "--sides", 0.35, 0.6, "--most-hands", 2, "--min-visible", 0.85, "--seed", seed)
    run("data/converter.py", "--root", DATA)
    (ROOT / DATA / "demo.data").write_text(
        f"classes=1\ntrain={DATA}/train.txt\nvalid={DATA}/valid.txt\nnames=data/oxfordhand.names\n"
    )


def train(stage: str, cfg: Path, seed: int, *options: object) -> Path:
    """One training run in logs/demo/<stage>; returns its best weights."""
    run("train.py", "--model_def", cfg, "--data_config", DATA / "demo.data", "--name", f"demo/{stage}",
        "--epochs", EPOCHS[stage], "--seed", seed, "--n_cpu", 1, "--no-publish", "--augment", "flip",
        "--batch_size", 8, "--warmup", 0.25, *options)
    return LOGS / stage / "best.pth"


def score(stage: str, cfg: Path, weights: Path) -> dict:
    """test.py on the test pictures; returns its numbers."""
    out = LOGS / f"test_{stage}.json"
    run("test.py", "--model_def", cfg, "--weights_path", weights, "--data_config", DATA / "demo.data",
        "--conf_thres", 0.01, "--json", out, "--pr", LOGS / f"pr_{stage}.png", "--mistakes",
        LOGS / f"mistakes_{stage}.jpg")
    return json.loads((ROOT / out).read_text())


def shown_pictures() -> list[Path]:
    """The first six test pictures, relative to the root."""
    return [DATA / name for name in (ROOT / DATA / "valid.txt").read_text().split()[:6]]


def detect(stage: str, cfg: Path, weights: Path) -> None:
    """detect.py on the pictures that the report shows."""
    run("detect.py", "--cfg", cfg, "--weights", weights, "--source", *shown_pictures(),
        "--out", LOGS / f"detect_{stage}", "--conf_thres", 0.4)


def main() -> None:
    """Data -> baseline -> -sr -> prune -> fine-tune -> test -> detect -> table and report."""
    args = parse_args()
    from examples.demo_report import draw_truth, final_table, write_report

    started = time.perf_counter()
    shutil.rmtree(ROOT / LOGS, ignore_errors=True)
    (ROOT / LOGS).mkdir(parents=True)
    make_data(args.seed, args.keep_data)
    cfg = LOGS / "yolov3-tiny-demo.cfg"
    run("config/create_hand_model.py", "--base", "yolov3-tiny", "--size", SIZE, "--anchors-from", DATA / "train.txt",
        "--out", cfg)
    baseline = train("baseline", cfg, args.seed, "--lr", 4e-3)
    sparse = train("sparse", cfg, args.seed, "-pre", baseline, "--lr", 3e-3, "-sr", "--s", 0.04, "--sparsity", "prox",
                   "--s-schedule", "ease", "--rescale", "auto")
    run("test_prune.py", "--cfg", cfg, "--weights", sparse, "--data", DATA / "demo.data", "--target-flops",
        args.target_flops, "--recalibrate", 0, "--out", LOGS / "pruned")
    slim_cfg = LOGS / "pruned" / "prune_yolov3-tiny-demo.cfg"
    start = LOGS / "pruned/checkpoints/prune_yolov3-tiny-demo_ckpt.pth"
    tuned = train("tuned", slim_cfg, args.seed, "-pre", start, "--lr", 3e-3)

    scores = {"dense": score("dense", cfg, baseline), "pruned": score("pruned", slim_cfg, tuned)}
    for stage, stage_cfg, weights in (("dense", cfg, baseline), ("pruned", slim_cfg, tuned)):
        detect(stage, stage_cfg, weights)
    draw_truth([ROOT / path for path in shown_pictures()], ROOT / LOGS / "truth")
    minutes = (time.perf_counter() - started) / 60
    table = final_table(ROOT, (cfg, baseline), (slim_cfg, tuned), scores, SIZE)
    footer = f"seed {args.seed}, {minutes:.1f} minutes in all; inference: {table.protocol}"
    write_report(ROOT / LOGS, table, footer)
    print(f"whole road: {minutes:.1f} minutes; report: {LOGS / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
