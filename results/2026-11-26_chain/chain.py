"""From photographs to every net of this folder, on one GPU: steps that wait for what they need, several at a time.

    python results/2026-11-26_chain/chain.py --data data/hands --jobs 5

--data holds hands.data, egohands.data and handviews.data (../2026-11-25_hands_slim). Every step is one command of the
project, with its log in logs/chain/NAME.log; a step that is done (NAME.done) is not done again, a training that was
stopped goes on. logs/chain/seconds.csv has what each took. --minutes: start nothing later, and stop what runs then.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = Path("logs/chain")
FULL, QUARTER = OUT / "full.cfg", OUT / "w25.cfg"
SEEDS = (0, 1, 2)
OURS = ("0.0667", "0.0333", "0.3", "0.015", "0.0075")  # shares of the full-size net's FLOPs
TUNE = "--weight_decay 2.5e-4 --augment strong --mosaic 0.3"
RECOVER = "--weight_decay 2.5e-4 --clip 250"  # of the published recipe on EgoHands


@dataclass
class Step:
    """A command, and the steps that have to be done before it."""

    name: str
    words: list[str]
    needs: list[str]


class Plan:
    """The steps, in the order in which they are begun where several could be."""

    def __init__(self, data: Path, workers: int):
        self.data, self.workers, self.steps = data, workers, []

    def add(self, name: str, command: str, *needs: str) -> None:
        """A step `name` that runs `command` with this Python."""
        self.steps.append(Step(name, [sys.executable, *shlex.split(command)], list(needs)))

    def train(self, name: str, cfg: Path, data: str, flags: str, *needs: str, batch: int = 32, workers: int = 0) -> Path:
        """A training run; returns its weights."""
        self.add(name, f"train.py --cfg {cfg} --data {self.data / data}.data --batch_size {batch} --bf16 --n_cpu "
                       f"{workers or self.workers} --threads 1 --cache-gb 1 --no-publish --no-pictures --save_interval 100 "
                       f"--evaluation_interval 29 --name chain/{name} {flags}", *needs)
        return OUT / name / "best.pth"

    def cut(self, name: str, cfg: Path, weights: Path, data: str, flags: str, *needs: str) -> tuple[Path, Path]:
        """A pruning; returns the cfg and checkpoint that it writes."""
        out = OUT / name
        self.add(name, f"test_prune.py --cfg {cfg} --weights {weights} --data {self.data / data}.data --n_cpu 2 "
                       f"--threads 2 --batch_size 32 --repeats 0 --out {out} {flags}", *needs)
        return out / f"prune_{cfg.stem}.cfg", out / "checkpoints" / f"prune_{cfg.stem}_ckpt.pth"

    def score(self, name: str, cfg: Path, weights: Path, part: str, *needs: str) -> None:
        """A net's scores on the validation pictures of `part`, as logs/chain/NAME.json."""
        self.add(name, f"test.py --cfg {cfg} --weights {weights} --data {self.data / part}.data --backend torch "
                       f"--n_cpu 2 --threads 2 --json {OUT / name}.json", *needs)


def full_dense(plan: Plan) -> Path:
    """The dense net at full size, from random weights, and its scores in both worlds."""
    dense = plan.train("full-dense", FULL, "hands", "--weights none --epochs 36 --lr 5e-3 --warmup 2 --augment strong "
                       "--mosaic 0.3", workers=5)
    plan.score("full-dense-egohands", FULL, dense, "egohands", "full-dense")
    plan.score("full-dense-handviews", FULL, dense, "handviews", "full-dense")
    return dense


def full_cuts(plan: Plan, sparse: Path) -> dict[str, tuple[Path, Path]]:
    """Cuts of the sparse net to several sizes."""
    return {share: plan.cut(f"full-cut-{share}", FULL, sparse, "hands", f"--target-flops {share}", "full-sparse")
            for share in OURS}


def others_cuts(plan: Plan, sparse: Path) -> dict[str, tuple[Path, Path]]:
    """Cuts of the same net by the reference's rule and by Torch-Pruning."""
    cuts = {}
    for share in ("0.3", "0.2", "0.15"):
        cuts[f"skip-{share}"] = plan.cut(f"full-cut-skip-{share}", FULL, sparse, "hands", f"--target-flops {share} "
                                         "--strategy skip --fold bias", "full-sparse")
    for share in ("0.3", "0.0667", "0.0333"):
        out = OUT / f"full-cut-tp-{share}"
        plan.add(f"full-cut-tp-{share}", f"-m benchmarks.tradeoff --cfg {FULL} --weights {sparse} --data "
                 f"{plan.data}/hands.data --methods 'Torch-Pruning BNScale' --flops {share} --threads 2 --no-timing --out {out}",
                 "full-sparse")
        net = out / "nets" / f"Torch-Pruning-BNScale-{share}"
        cuts[f"tp-{share}"] = net / "net.cfg", net / "net.pth"
    return cuts


def full_tuned(plan: Plan, dense: Path, cuts: dict) -> None:
    """Every cut tuned alike, the dense net its teacher."""
    teacher = f"--teacher-cfg {FULL} --teacher-weights {dense}"
    for name, (cfg, start) in cuts.items():
        plan.train(f"full-tuned-{name}", cfg, "hands", f"-pre {start} --epochs 24 --lr 6e-3 --warmup 0.5 {TUNE} {teacher}",
                   f"full-cut-{name}", batch=64)


def full_longer(plan: Plan, dense: Path, cuts: dict) -> None:
    """Two cuts tuned for longer, their shapes from random weights for as many epochs as the chain up to the first
    tuning, and the dense net for longer."""
    teacher = f"--teacher-cfg {FULL} --teacher-weights {dense}"
    for name in ("0.0333", "0.0667"):
        plan.train(f"full-long-{name}", cuts[name][0], "hands", f"-pre {OUT}/full-tuned-{name}/best.pth --epochs 36 --lr 4e-3 "
                   f"--warmup 0.5 {TUNE} {teacher}", f"full-tuned-{name}", batch=64)
        plan.train(f"full-scratch-{name}", cuts[name][0], "hands", f"--weights none --epochs 72 --lr 6e-3 --warmup 2 {TUNE}",
                   f"full-cut-{name}", batch=64)
    plan.train("full-dense-longer", FULL, "hands", f"-pre {dense} --epochs 24 --lr 3e-3 --warmup 0.5 {TUNE}", "full-dense",
               workers=5)


def recipe(plan: Plan) -> None:
    """EgoHands at quarter width with the published recipe's batches and rates: s by hand, and s found from three
    starts, as many epochs each."""
    ego = dict(batch=16)
    dense = plan.train("ego-dense", QUARTER, "egohands", "--weights none --epochs 22 --lr 3e-3", **ego)
    teacher = f"--teacher-cfg {QUARTER} --teacher-weights {dense}"
    tune = f"--lr 3e-3 {RECOVER} {teacher}"
    plan.train("ego-elsewhere", QUARTER, "handviews", f"-pre {dense} --epochs 2 --lr 1e-3 --warmup 0.3", "ego-dense", **ego)
    starts = {"found": ("", "ego-dense"), "asis": ("--rescale none", "ego-dense"), "elsewhere": ("", "ego-elsewhere")}
    for name, (flags, start) in starts.items():
        sparse = plan.train(f"ego-{name}-sparse", QUARTER, "egohands", f"-pre {OUT}/{start}/best.pth -sr --target-flops 0.3 "
                            f"--epochs 12 --lr 1e-3 {flags}", start, **ego)
        cfg, cut = plan.cut(f"ego-{name}-cut", QUARTER, sparse, "egohands", "--target-flops 0.3", f"ego-{name}-sparse")
        plan.train(f"ego-{name}-tuned", cfg, "egohands", f"-pre {cut} --epochs 18 {tune}", f"ego-{name}-cut", **ego)
    first = plan.train("ego-hand-sparse1", QUARTER, "egohands", f"-pre {dense} -sr --s 0.02 --s-schedule ease --epochs 12 "
                       "--lr 3e-3", "ego-dense", **ego)
    second = plan.train("ego-hand-sparse2", QUARTER, "egohands", f"-pre {first} -sr --s 0.04 --s-schedule ease "
                        "--sparsity-weight flops --epochs 10 --lr 3e-3", "ego-hand-sparse1", **ego)
    cfg, cut = plan.cut("ego-hand-cut", QUARTER, second, "egohands", "--target-flops 0.3", "ego-hand-sparse2")
    plan.train("ego-hand-tuned", cfg, "egohands", f"-pre {cut} --epochs 8 {tune}", "ego-hand-cut", **ego)


def published(plan: Plan, dense: Path) -> None:
    """The two detectors, tuned on: hands-tiny with hand-free pictures, hands-slim with the full-size net as teacher."""
    script = HERE.parent / "2026-11-26_hands_slim" / "hand_free.py"
    plan.add("hand-free", f"{script} {plan.data}/hands.data {plan.data}/hand_free")
    free = plan.data / "hand_free" / "hands.data"
    free.parent.mkdir(exist_ok=True)
    rows = (plan.data / "hands.data").read_text().splitlines()
    free.write_text("\n".join(row for row in rows if row[:5] != "train") + f"\ntrain={free.parent}/train.txt\n")
    plan.train("tiny", Path("config/hands-tiny.cfg"), "hand_free/hands", f"-pre weights/hands-tiny.weights --epochs 40 --lr "
               f"4e-3 --warmup 0.5 {TUNE}", "hand-free", batch=64)
    plan.train("slim", Path("config/hands-slim.cfg"), "hand_free/hands", "-pre weights/hands-slim.weights --epochs 30 --lr "
               f"3e-3 --warmup 0.5 {TUNE} --teacher-cfg {FULL} --teacher-weights {dense}", "hand-free", "full-dense", batch=64)


def quarter(plan: Plan, seed: int) -> None:
    """EgoHands at quarter width, one seed: dense, sparse, cuts to an eighth and a twelfth of the FLOPs, the shape of the
    first from random weights, and a narrow dense net of as many FLOPs, for as many epochs."""
    with_seed, name = f"--seed {seed}", f"q{seed}"
    plan.train(f"{name}-dense", QUARTER, "egohands", f"--weights none --epochs 50 --lr 4e-3 --warmup 2 {TUNE} {with_seed}")
    quarter_pruned(plan, seed, "prox", ("0.12", "0.08"))
    scratch = f"--weights none --epochs 98 --lr 4e-3 --warmup 2 {TUNE} {with_seed}"
    shape = OUT / f"{name}-prox-0.12-cut" / "prune_w25.cfg"
    plan.train(f"{name}-scratch", shape, "egohands", scratch, f"{name}-prox-0.12-cut")
    plan.train(f"{name}-narrow", OUT / "w08.cfg", "egohands", scratch, "w08")


def quarter_pruned(plan: Plan, seed: int, kind: str, shares: tuple[str, ...]) -> None:
    """Sparse training of one kind from the dense net of `quarter`, and its cuts to these shares of the FLOPs, tuned."""
    name, dense = f"q{seed}", OUT / f"q{seed}-dense" / "best.pth"
    sparse = plan.train(f"{name}-{kind}", QUARTER, "egohands", f"-pre {dense} -sr --target-flops {shares[-1]} --sparsity {kind} "
                        f"--epochs 16 --lr 1.5e-3 --seed {seed}", f"{name}-dense")
    for share in shares:
        own = f"{name}-{kind}-{share}"
        cfg, cut = plan.cut(f"{own}-cut", QUARTER, sparse, "egohands", f"--target-flops {share}", f"{name}-{kind}")
        plan.train(f"{own}-tuned", cfg, "egohands", f"-pre {cut} --epochs 32 --lr 4e-3 --warmup 0.5 {TUNE} --seed {seed} "
                   f"--teacher-cfg {QUARTER} --teacher-weights {dense}", f"{own}-cut")


def planned(data: Path, workers: int) -> list[Step]:
    """All steps."""
    plan = Plan(data, workers)
    make = "config/create_hand_model.py --base yolov3 --size 256"
    plan.add("full", f"{make} --anchors-from {data}/hands.txt --out {FULL}")
    plan.add("w25", f"{make} --width 0.25 --anchors-from {data}/egohands.txt --out {QUARTER}")
    plan.add("w08", f"{make} --width 0.08 --anchors-from {data}/egohands.txt --out {OUT}/w08.cfg")
    dense = full_dense(plan)
    sparse = plan.train("full-sparse", FULL, "hands", f"-pre {dense} -sr --target-flops 0.03 --epochs 12 --lr 1.5e-3",
                        "full-dense", workers=5)
    cuts = full_cuts(plan, sparse)
    full_tuned(plan, dense, cuts)
    recipe(plan)
    published(plan, dense)
    for seed in SEEDS:
        quarter(plan, seed)
    full_tuned(plan, dense, others_cuts(plan, sparse))
    full_longer(plan, dense, cuts)
    for seed in SEEDS:
        quarter_pruned(plan, seed, "polarize", ("0.12",))
    for step in plan.steps[3:]:
        step.needs += [made for made in ("full", "w25") if made not in step.needs]
    return plan.steps


class Runner:
    """Runs steps, `jobs` at a time, until all are done or `until` is past."""

    def __init__(self, steps: list[Step], jobs: int, until: float):
        self.steps, self.jobs, self.until = steps, jobs, until
        self.running: dict[str, tuple[subprocess.Popen, float]] = {}
        self.failed: set[str] = set()

    def run(self) -> None:
        """Begin, wait, note; see the module."""
        while time.time() < self.until:
            self.collect()
            for step in self.ready()[:self.jobs - len(self.running)]:
                self.begin(step)
            if not self.running:
                return
            time.sleep(0.2)
        for process, _ in self.running.values():
            process.send_signal(signal.SIGTERM)  # a training saves its state
        for process, _ in self.running.values():
            process.wait()
        self.collect()

    def ready(self) -> list[Step]:
        """Steps that can be begun, in order."""
        done = {step.name for step in self.steps if (OUT / f"{step.name}.done").exists()}
        return [step for step in self.steps if step.name not in done | self.failed | set(self.running)
                and done.issuperset(step.needs)]

    def begin(self, step: Step) -> None:
        """Start a step; a training of which there is a state goes on."""
        words = step.words
        if words[1] == "train.py" and (OUT / step.name / "last.pth").exists():
            keep = [f"{flag}={words[words.index(flag) + 1]}" for flag in ("--n_cpu", "--threads")]
            words = [sys.executable, "train.py", "--resume", str(OUT / step.name), *keep]
        log = open(OUT / f"{step.name}.log", "a")
        print(f"{time.strftime('%X')} {step.name}", flush=True)
        paths = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": paths, "CUDA_MPS_CLIENT_PRIORITY": str(int(step.name[:4] != "full"))})
        self.running[step.name] = process, time.time()

    def collect(self) -> None:
        """Note the steps that ended."""
        for name, (process, begun) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            if process.returncode:
                self.failed.add(name)
                print(f"{time.strftime('%X')} {name} ended with status {process.returncode}", flush=True)
                continue
            (OUT / f"{name}.done").touch()
            with open(OUT / "seconds.csv", "a") as file:
                file.write(f"{name},{time.time() - begun:.0f}\n")


def main() -> None:
    """Plan and run."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--jobs", type=int, default=5)
    p.add_argument("--workers", type=int, default=3, help="loader processes of a training")
    p.add_argument("--minutes", type=float, default=600)
    args = p.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    Runner(planned(args.data, args.workers), args.jobs, time.time() + 60 * args.minutes).run()


if __name__ == "__main__":
    main()
