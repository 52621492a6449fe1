"""The command lines that must work exactly as written, run one after the other in a folder whose config/ holds tiny
nets."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import detect
import export
import train
from benchmarks import sparsity as variants
from benchmarks import tradeoff
from conftest import HANG, ROOT, randomise
from models import Darknet
from nets import TINY_YOLO
from utils.batch_norm import rescale_gammas
from utils.checkpoint import load_weights, read_checkpoint, save_checkpoint, weights_content
from utils.parse_config import class_count, parse_model_config, rebuild_heads, write_model_config
from utils.pruning.args import parse_prune_args
from utils.shapes import total_cost

SCRIPTS = ("train.py", "test.py", "test_prune.py", "detect.py", "export.py")


def python(command, cwd, status=0):
    """Run `python COMMAND`; check the exit status; return (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=HANG,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == status, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the code with tiny nets under the real names, an Oxford-like release of drawings, and stand-in public
    weights."""
    root = tmp_path_factory.mktemp("project")
    for name in SCRIPTS + ("models.py",):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "utils", root / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("config", "data"):
        (root / folder).mkdir()
    for name in (
        "data/converter.py",
        "data/synthesize_hands.py",
        "data/draw_hands.py",
        "data/draw_clutter.py",
        "data/oxford.yaml",
        "data/oxfordhand.names",
        "config/oxfordhand.data",
    ):
        shutil.copy(ROOT / name, root / name)
    (root / "config" / "yolov3-hand.cfg").write_text(TINY_YOLO)
    defs = parse_model_config(root / "config" / "yolov3-hand.cfg")
    write_model_config(root / "config" / "yolov3.cfg", rebuild_heads(defs, 80))
    Darknet(root / "config" / "yolov3.cfg").save_darknet_weights(root / "weights" / "yolov3.weights")
    python("data/synthesize_hands.py --out data --train 16 --valid 4 --test 6 --size 96 --workers 1", root)
    return root


def exists(root, *names):
    for name in names:
        assert (root / name).is_file(), (
            f"{name} is missing; there are {sorted(str(p.relative_to(root)) for p in root.rglob('*.*'))[:200]}"
        )


def test_first_family_of_commands(project):
    python("converter.py", project / "data")
    exists(project, "data/train.txt", "data/valid.txt")

    out, _ = python("train.py --model_def config/yolov3-hand.cfg --epochs 1", project)
    assert "80 classes" in out  # the stand-in for the public weights: all but the heads
    exists(project, "checkpoints/yolov3_ckpt.pth", "weights/yolov3_ckpt.pth", "weights/best.pt")

    out, _ = python("train.py --model_def config/yolov3-hand.cfg -sr --s 0.01 --epochs 1", project)
    assert "1 epoch is too few" in out and "go on training with -sr" in out
    run = next((project / "logs").glob("yolov3-sr-*"))
    exists(run, "args.json", "metrics.csv", "last.pth", "best.pth", "curves.png")

    out, _ = python("test_prune.py --cfg config/yolov3-hand.cfg --weights weights/yolov3.weights", project)
    assert "not sparse enough" in out and "masked" in out and "compact net verified" in out
    exists(project, "config/prune_yolov3-hand.cfg", "checkpoints/prune_yolov3_ckpt.pth",
           "weights/prune_yolov3_ckpt.pth", "pruned/yolov3-pruned.cfg", "pruned/yolov3-pruned.weights",
           "pruned/yolov3-pruned-channels.png", "pruned/yolov3-pruned-report.json")

    start = (project / "checkpoints/prune_yolov3_ckpt.pth").read_bytes()
    python(
        "train.py --model_def config/prune_yolov3-hand.cfg -pre checkpoints/prune_yolov3_ckpt.pth --epochs 1", project
    )
    assert (project / "checkpoints/prune_yolov3_ckpt-init.pth").read_bytes() == start
    tuned = read_checkpoint(project / "weights/prune_yolov3_ckpt.pth")
    assert (
        tuned["epoch"] == 1
        and tuned["cfg"] == "config/prune_yolov3-hand.cfg"
        and tuned["run"].startswith("prune_yolov3-train-")
    )

    out, _ = python("test.py --model_def config/prune_yolov3-hand.cfg --weights_path weights/prune_yolov3_ckpt.pth "
                    "--data_config "
                    "config/oxfordhand.data --class_path data/oxfordhand.names --conf_thres 0.01", project)
    assert "AP@0.5" in out
    exists(project, "output/pr_prune_yolov3.png")


def test_second_family_of_commands(project):
    if not (project / "data/train.txt").is_file():
        python("converter.py", project / "data")
    out, _ = python(
        "train.py --data data/oxford.yaml --cfg cfg/yolov3.cfg --weights weights/yolov3.weights --epochs 1", project
    )
    assert "using config/yolov3.cfg" in out and "heads rebuilt for 1" in out

    python("test_prune.py --cfg cfg/yolov3.cfg --weights weights/best.pt", project)
    exists(project, "pruned/yolov3-pruned.cfg", "pruned/yolov3-pruned.weights")
    assert class_count(parse_model_config(project / "pruned/yolov3-pruned.cfg")) == 1
    start = (project / "pruned/yolov3-pruned.weights").read_bytes()

    python("train.py --data data/oxford.yaml --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights "
           "--epochs 1", project)
    assert (project / "pruned/yolov3-pruned-init.weights").read_bytes() == start
    assert (project / "pruned/yolov3-pruned.weights").read_bytes() != start

    python("test.py --data data/oxford.yaml --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights "
           "--json out/t.json --coco out/coco", project)
    numbers = json.loads((project / "out/t.json").read_text())
    assert numbers["n_images"] == 6 and 0 <= numbers["map50"] <= 1
    assert len(json.loads((project / "out/coco/ground_truth.json").read_text())["images"]) == 6
    exists(project, "out/coco/detections.json")

    before = (project / "pruned/yolov3-pruned.cfg").read_bytes()  # a second pruning counts up
    python("test_prune.py --cfg pruned/yolov3-pruned.cfg --weights pruned/yolov3-pruned.weights --percent 0.3 "
           "--repeats 2", project)
    exists(
        project,
        "config/prune2_yolov3.cfg",
        "checkpoints/prune2_yolov3_ckpt.pth",
        "pruned/yolov3-pruned2.cfg",
        "pruned/yolov3-pruned2.weights",
    )
    assert (project / "pruned/yolov3-pruned.cfg").read_bytes() == before
    python("test.py --data data/oxford.yaml --cfg pruned/yolov3-pruned2.cfg --weights pruned/yolov3-pruned2.weights "
           "--scorer compat", project)


def commands_of_choosing():
    """The commands of docs/choosing.md that are whole, for the tiny net and one epoch."""
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ {4,}python (.*)", text, re.M):
        stand_in = dict.fromkeys(("DENSE", "SPARSE", "WEIGHTS"), "checkpoints/yolov3_ckpt.pth")
        stand_in["CFG"] = "config/yolov3-hand.cfg"
        words = [stand_in.get(word, word) for word in shlex.split(line, comments=True)]
        words = [re.sub(r"--epochs \d+", "--epochs 1", word) for word in words]  # of --tune and its like
        words = ["0.6" if before == "--target-flops" else word for before, word in zip(["", *words], words)]
        short = {"train.py": ["--epochs", "1"]}.get(words[0], [])
        yield shlex.join(words + short + ["--quantise", "none"] * ("--road" in words))  # 8 bits: tests/test_export.py


@pytest.mark.parametrize("command", commands_of_choosing())
def test_the_commands_of_the_page_on_choosing_run(project, command):
    if not (project / "data/train.txt").is_file():
        python("converter.py", project / "data")
    defs = parse_model_config(project / "config" / "yolov3-hand.cfg")
    if not (project / "config/prune_yolov3-hand.cfg").is_file():
        write_model_config(project / "config/prune_yolov3-hand.cfg", defs)
    for name in ("checkpoints/yolov3_ckpt.pth", "checkpoints/prune_yolov3_ckpt.pth", "logs/baseline/best.pth"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        if not (project / name).is_file():
            net = Darknet(defs)
            randomise(net, zero_share=0.0)
            save_checkpoint(project / name, weights_content(net, "config/yolov3-hand.cfg", "a test"))
    python(command, project)


def test_out_keeps_everything_elsewhere_and_skip_prunes_less(project):
    torch.manual_seed(0)
    model = Darknet(project / "config" / "yolov3-hand.cfg")
    randomise(model)
    model.save_darknet_weights(project / "random.weights")
    for strategy in ("skip", "group"):
        python(f"test_prune.py --cfg config/yolov3-hand.cfg --weights random.weights --out {strategy} --strategy "
               f"{strategy} --percent 0.6 --no-eval --repeats 0", project)
        exists(
            project,
            f"{strategy}/prune_yolov3-hand.cfg",
            f"{strategy}/checkpoints/prune_yolov3_ckpt.pth",
            f"{strategy}/yolov3-pruned.weights",
        )
    parameters = [
        sum(p.numel() for p in Darknet(project / s / "yolov3-pruned.cfg").parameters()) for s in ("skip", "group")
    ]
    assert parameters[0] > parameters[1]


@pytest.fixture
def random_net(project):
    """The tiny net with varied gammas, as random.weights, and the data of the project."""
    if not (project / "data/train.txt").is_file():
        python("converter.py", project / "data")
    torch.manual_seed(0)
    model = Darknet(project / "config" / "yolov3-hand.cfg")
    randomise(model)
    model.save_darknet_weights(project / "random.weights")
    return model


PRUNE = "test_prune.py --cfg config/yolov3-hand.cfg --weights random.weights "


@pytest.mark.parametrize(
    "flags, parameters, flops",
    [
        ("--target-params 0.3", 0.3, 1),
        ("--target-flops 0.4 --score l1", 1, 0.4),
        ("--target-params 5K --target-flops 0.5 --score taylor", 1, 0.5),
        ("--target-params 0.5 --divisor 4", 0.5, 1),
        ("--target-flops 0.5 --layers 1 --score gamma-norm", 1, 0.5),
        ("--target-params 0.5 --score random --layer-keep 0.2", 0.5, 1),
    ],
)
def test_prune_reaches_its_target(project, random_net, flags, parameters, flops):
    out = f"aim{abs(hash(flags))}"
    python(f"{PRUNE} {flags} --no-eval --repeats 0 --out {out}", project)
    dense, slim = [
        total_cost(parse_model_config(path))
        for path in (project / "config/yolov3-hand.cfg", project / out / "prune_yolov3-hand.cfg")
    ]
    assert (
        slim.parameters <= (5000 if "5K" in flags else parameters * dense.parameters)
        and slim.macs <= flops * dense.macs
    )
    # the mildest cut that meets it, not just any; blocks are coarser
    if "divisor" not in flags and "layer-keep" not in flags:
        assert (
            slim.parameters > 0.8 * parameters * dense.parameters
            or slim.macs > 0.8 * flops * dense.macs
            or "5K" in flags
        )


def test_an_impossible_target_says_what_could_be_had_and_writes_nothing(project, random_net):
    _, error = python(f"{PRUNE} --target-params 10 --no-eval --out never", project, status=2)
    assert "expected a ratio" in error
    _, error = python(f"{PRUNE} --target-params 0.001 --no-eval --out never", project, status=2)
    assert "the strongest leaves" in error and not (project / "never").exists()
    _, error = python(f"{PRUNE} --max-drop 0.1 --no-eval --out never", project, status=2)
    assert "--no-eval" in error


def test_prune_scores_cuts_in_its_search_and_looks_around(project, random_net):
    out, _ = python(
        f"{PRUNE} --max-drop 1 --repeats 3 --curve 2 --sensitivity 2 --out look", project
    )
    assert "probe" in out and "taken anew on 16 training images" in out
    exists(
        project,
        "look/yolov3-pruned-curve.csv",
        "look/yolov3-pruned-curve.png",
        "look/yolov3-pruned-sensitivity.csv",
        "look/yolov3-pruned-sensitivity.png",
    )
    curve = (project / "look/yolov3-pruned-curve.csv").read_text().splitlines()
    assert len(curve) == 1 + 1 + 2 and curve[0].startswith("method,share_cut,parameters")


def test_statistics_stay_after_a_search_where_there_are_no_training_images(project, random_net):
    (project / "score.data").write_text("classes=1\nvalid=data/valid.txt\nnames=data/oxfordhand.names\n")
    out, _ = python(f"{PRUNE} --target-params 0.5 --repeats 0 --out anew --data score.data", project)
    assert "no training images" in out and "taken anew" not in out


def test_fold_bias_reports_what_it_costs_a_layer(project, random_net):
    python(f"{PRUNE} --percent 0.5 --fold bias --no-eval --repeats 0 --out folded", project)
    rows = [line.split(",") for line in (project / "folded/yolov3-pruned-channels.csv").read_text().splitlines()]
    assert (
        rows[0][-1].startswith("off by")
        and float(rows[1][-1]) < 1e-6
        and max(float(row[-1]) for row in rows[1:]) > 1e-3
    )


def test_steps_prune_and_tune_in_turn_and_go_on_where_they_were_stopped(project, random_net):
    command = (f"{PRUNE} --steps 2 --target-params 0.25 --tune '--epochs 2 --device cpu' "
               f"--n_cpu 0 --threads 1 --no-eval --repeats 0 --out parts")
    _, error = python(command.replace("--epochs", "--epochz"), project, status=2)
    assert "train.py: unrecognized arguments: --epochz" in error and not (project / "parts").exists()
    out, _ = python(command, project)
    exists(
        project, "parts/step1/prune_yolov3-hand.cfg", "parts/step2/prune2_yolov3-hand.cfg", "logs/parts-step2/best.pth"
    )
    dense, slim = [
        total_cost(parse_model_config(path)).parameters
        for path in (project / "config/yolov3-hand.cfg", project / "parts/step2/prune2_yolov3-hand.cfg")
    ]
    assert 0.1 * dense < slim <= 0.25 * dense and "mAP tuned" in out
    whole = read_checkpoint(project / "logs/parts-step2/last.pth")
    shutil.rmtree(project / "logs/parts-step2")
    _, error = python(command.replace("0.25", "0.5"), project, status=2)
    assert "steps begun with" in error and "another --out" in error
    flags = out.split("$ python train.py ")[2].splitlines()[0]
    (project / "stopped.py").write_text(
        "import shlex, train\nfrom models import Darknet\nfrom utils.pruning.prospect import Prospect\n"
        "from utils.training.args import train_options\nfrom utils.training.trainer import Trainer\n"
        f"options = train_options(vars(train.parse_args(shlex.split({flags!r}))))\n"
        "trainer = Trainer(options, Darknet, Prospect)\n"
        "losses = trainer.train_one_epoch(1)\n"
        "result = trainer.evaluate(1)\n"
        "trainer.record(1, losses, result)\n"
        "trainer.save(1, result)\n")
    python("stopped.py", project)  # as if it had been stopped after its first epoch
    again, _ = python(command, project)
    assert (
        again.count("$ python") == 1
        and "$ python train.py --resume logs/parts-step2 --device=cpu --n_cpu 0 --threads 1" in again
    )
    resumed = read_checkpoint(project / "logs/parts-step2/last.pth")
    assert resumed["epoch"] == 2 and all(
        torch.equal(resumed["live"][key], value) for key, value in whole["live"].items()
    )


def test_a_rescaled_checkpoint_prunes_to_files_of_one_function(project):
    """The checkpoint keeps the scale it trains at, the Darknet file does not; both detect the same. export.py makes the
    second of the first."""
    torch.manual_seed(1)
    model = Darknet(project / "config" / "yolov3-hand.cfg").eval()
    randomise(model)
    rescale_gammas(model, 0.05)
    save_checkpoint(project / "scaled.pth", weights_content(model, "config/yolov3-hand.cfg", "r", rescale=0.05))
    python("test_prune.py --cfg config/yolov3-hand.cfg --weights scaled.pth --percent 0.5 --no-eval --repeats 0 --out "
           "scaled", project)
    cfg = project / "scaled" / "prune_yolov3-hand.cfg"
    image, raws = torch.rand(1, 3, 64, 64), []
    words = f"export.py --cfg {cfg} --weights scaled/prune_yolov3_ckpt.pth --out scaled/exported"
    out, _ = python(f"{words}.weights", project)
    assert "read back it is within" in out
    assert parse_model_config(project / "scaled/exported.cfg") == parse_model_config(cfg)
    assert "expected one that ends in .weights, .onnx" in python(f"{words}.bin", project, status=2)[1]
    for name in ("prune_yolov3_ckpt.pth", "yolov3-pruned.weights", "exported.weights"):
        pruned = Darknet(cfg).eval()
        _, content = load_weights(pruned, project / "scaled" / name)
        with torch.no_grad():
            raws.append(pruned.raw_maps(image))
        gammas = torch.cat([bn.weight.detach() for _, _, bn in pruned.convolutions() if bn is not None])
        assert content.get("rescale", 1.0) == (0.05 if name.endswith("pth") else 1.0)
        assert (gammas.abs().max() < 0.06) == name.endswith("pth")
    for other in raws[1:]:
        assert all(torch.allclose(a, b, atol=1e-4 * a.abs().max()) for a, b in zip(raws[0], other))


def test_detect_reads_image_folder_glob_and_video_and_writes_pictures_and_json(project):
    rng = np.random.default_rng(0)
    pictures = project / "pictures"
    pictures.mkdir(exist_ok=True)
    for i in range(3):
        cv2.imwrite(str(pictures / f"{i}.png"), rng.integers(0, 255, (60, 90, 3)).astype(np.uint8))
    video = cv2.VideoWriter(str(project / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(4):
        video.write(rng.integers(0, 255, (64, 96, 3)).astype(np.uint8))
    video.release()
    shutil.copy(project / "clip.avi", pictures / "clip.avi")
    Darknet(project / "config" / "yolov3-hand.cfg").save_darknet_weights(project / "w.weights")
    out, _ = python("detect.py --cfg config/yolov3-hand.cfg --weights w.weights --conf_thres 0 --source pictures/0.png "
                    "pictures 'pictures/[12].png' "
                    "clip.avi pictures/clip.avi --max-frames 3 --out seen --data config/oxfordhand.data", project)
    results = json.loads((project / "seen/detections.json").read_text())
    assert len(results) == 1 + (3 + 3) + 2 + 3 + 3 and cv2.imread(str(project / "seen/1.png")).shape == (60, 90, 3)
    for result in results:
        assert len(result["detections"]) > 0
        for found in result["detections"]:
            x1, y1, x2, y2 = found["box_xyxy_px"]
            assert 0 <= x1 <= x2 <= result["width"] and 0 <= y1 <= y2 <= result["height"]
    for name in ("clip_detected", "_clip_detected", "__clip_detected"):  # a later video of that name replaces nothing
        assert cv2.VideoCapture(str(project / f"seen/{name}.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize(
    "command, words",
    [
        ("train.py --cfg config/none.cfg", "no such cfg file"),
        ("train.py --data none.data", "no such data file"),
        ("train.py --weights weights/none.weights", "no such weights file"),
        ("test.py --cfg config/yolov3-hand.cfg --weights none.pth", "no such weights file"),
        ("test.py --cfg config/yolov3-hand.cfg --weights w.weights --img_size 100", "expected multiples of 8"),
        ("detect.py --cfg config/yolov3-hand.cfg --weights w.weights --source nothing-here", "found no image"),
        (
            "detect.py --cfg config/yolov3-hand.cfg --weights w.weights --source rtsp://127.0.0.1:1/x",
            "no stream answers there",
        ),
        ("test.py --cfg config/yolov3-hand.cfg --weights w.weights --device cuda:77", "not usable here"),
        ("train.py --weights none --freeze 999", "expected less than"),
    ],
)
def test_wrong_input_is_one_line_and_exit_status_2(project, command, words):
    if not (project / "data/train.txt").is_file():
        python("converter.py", project / "data")
    Darknet(project / "config" / "yolov3-hand.cfg").save_darknet_weights(project / "w.weights")
    _, error = python(command, project, status=2)
    lines = error.strip().splitlines()
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in error


def test_every_flag_says_what_it_means_and_what_it_is_by_default(monkeypatch):
    """Every action of every parser, caught as it parses."""
    seen = []
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda parser, argv=None: seen.append(parser) or parser.exit()
    )
    for parse in (
        train.parse_args,
        parse_prune_args,
        detect.parse_args,
        export.parse_args,
        tradeoff.parse_args,
        variants.parse_args,
    ):
        with pytest.raises(SystemExit):
            parse("") if parse is parse_prune_args else parse([])
    assert len(seen) == 6
    for parser in seen:
        text = " ".join(parser.format_help().split())
        for action in parser._actions:
            assert action.help, action.option_strings
            if action.default not in (None, False, True, "", argparse.SUPPRESS) and not isinstance(
                action.default, (list, tuple)
            ):
                assert f"default: {action.default}" in text, action.option_strings


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_and_every_flag_has_its_aliases(project, script):
    out, _ = python(f"{script} --help", project)
    assert (
        "--model_def" in out
        and "--cfg" in out
        and "--pretrained_weights" in out
        and "--weights_path" in out
        and "--device" in out
    )


def test_export_writes_a_checked_file_and_a_backend_scores_as_torch_does(project):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    if not (project / "data/train.txt").is_file():
        python("converter.py", project / "data")
    Darknet(project / "config" / "yolov3-hand.cfg").save_darknet_weights(project / "x.weights")
    out, _ = python("export.py --cfg config/yolov3-hand.cfg --weights x.weights", project)
    assert "onnxruntime is within" in out and "(batch, 3, height, width: multiples of 8)" in out
    exists(project, "output/yolov3-hand.onnx")
    found = {}
    for backend in ("torch", "onnxruntime"):
        out, _ = python(f"test.py --cfg config/yolov3-hand.cfg --weights x.weights --backend {backend} --json "
                        "out/b.json", project)
        assert f"by {backend}" in out and json.loads((project / "out/b.json").read_text())["backend"] == backend
        python(f"detect.py --cfg config/yolov3-hand.cfg --weights x.weights --backend {backend} --conf_thres 0 "
               f"--nms_thres 1 --source data/images --out out/{backend}", project)
        found[backend] = json.loads((project / f"out/{backend}/detections.json").read_text())
    for one, other in zip(*found.values(), strict=True):
        scores = [sorted(box["score"] for box in result["detections"]) for result in (one, other)]
        assert len(scores[0]) > 100 and scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_prune_refuses_a_net_with_nan(project):
    model = Darknet(project / "config" / "yolov3-hand.cfg")
    model.module_list[-2][0].bias.data[0] = float("nan")  # the second head
    model.save_darknet_weights(project / "nan.weights")
    _, error = python("test_prune.py --cfg config/yolov3-hand.cfg --weights nan.weights --percent 0.5 --no-eval --out "
                      "never", project, status=2)
    assert "not a finite number in layer" in error and not (project / "never").exists()


def test_detect_takes_the_class_count_from_the_checkpoint_and_never_overwrites_its_input(project):
    pictures = project / "mine"
    pictures.mkdir(exist_ok=True)
    cv2.imwrite(str(pictures / "0.png"), np.zeros((60, 90, 3), np.uint8))
    before = (pictures / "0.png").read_bytes()
    save_checkpoint(
        project / "one.pth", weights_content(Darknet(project / "config" / "yolov3-hand.cfg"), "config/yolov3.cfg", "r")
    )
    out, _ = python("detect.py --cfg config/yolov3.cfg --weights one.pth --source mine --out mine", project)
    assert (
        "heads rebuilt for 1" in out and (pictures / "0.png").read_bytes() == before and (pictures / "_0.png").is_file()
    )


def test_prune_raises_and_writes_nothing_when_the_compact_net_is_wrong(project):
    """A fault put into the surgery on purpose: the verification must catch it."""
    (project / "broken.py").write_text(
        "import runpy, sys, utils.pruning.job as p, utils.pruning.compact as q\n"
        "good = p.compact_net\n"
        "def bad(*a, **k):\n"
        "    s = good(*a, **k)\n"
        "    key = next(k for k in s.state if k.endswith('conv_5.weight'))\n"
        "    s.state[key] = s.state[key] * 1.5\n"
        "    return s\n"
        "p.compact_net = q.compact_net = bad\n"
        "sys.argv = ['test_prune.py', '--cfg', 'config/yolov3-hand.cfg', '--weights', 'w.weights', '--percent', '0.5', "
        "'--no-eval', '--out', 'never']\n"
        "runpy.run_path('test_prune.py', run_name='__main__')\n")
    torch.manual_seed(0)
    Darknet(project / "config" / "yolov3-hand.cfg").save_darknet_weights(project / "w.weights")
    _, error = python("broken.py", project, status=2)
    assert "nothing was written" in error and not (project / "never").exists()
