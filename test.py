"""Score a network: mAP@.5, AP@[.5:.95], precision, recall, F1.

    python test.py --model_def config/yolov3-hand.cfg --weights_path weights/yolov3_ckpt.pth --data data/oxford.yaml
    python test.py --weights output/yolov3-hand.onnx --data config/oxfordhand.data
"""

import argparse
from pathlib import Path
from typing import Callable, NamedTuple

from utils import cli
from utils.output import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of test.py."""
    p = cli.Parser(description=__doc__)
    cli.add_model_flags(p, "config/yolov3-hand.cfg", None, "to score (default: weights/STEM_ckpt.pth)", cli.TO_RUN)
    cli.add_data_flags(p, trained=True)
    cli.add_run_flags(p, batch_size=8)
    cli.add_score_flags(p)
    cli.add_backend_flag(p)
    p.add_argument("--json", type=cli.out_file, metavar="FILE", help="write all numbers there")
    p.add_argument("--coco", type=cli.out_folder, metavar="DIR",
                   help="write the labels and the detections there as COCO's two files, such as pycocotools scores")
    p.add_argument("--pr", type=cli.out_file, metavar="PNG",
                   help="precision-recall curve (default: output/pr_STEM.png)")
    p.add_argument("--mistakes", type=cli.out_file, metavar="JPG",
                   help="draw the 16 images with the most mistakes: missed boxes in red, false alarms in orange")
    args = p.parse_args(argv)
    if args.coco and args.scorer == "reference":
        p.error("--coco: found --scorer reference beside it, whose input is no letterbox; expected standard or compat")
    return args


def main() -> None:
    """Load -> evaluate -> print the table -> write curve and numbers."""
    args = parse_args()
    from utils import processes
    from utils.checkpoint import is_exported
    from utils.data.datasets import evaluation_loader
    from utils.evaluation.coco_files import write_coco
    from utils.evaluation.evaluate import ScoreOptions, detect_all, score_detections
    from utils.plots import plot_pr_curves

    run = of_file(args) if is_exported(args.weights) else of_net(args)
    print(run.words)
    options = cli.options_of(ScoreOptions, args)
    loader = evaluation_loader(run.valid, args.batch_size, args.n_cpu)
    together = detect_all(run.model, loader, options, predict=run.predict)
    processes.stop()
    if together is None:  # the first process has them
        return
    result = score_detections(*together, run.names, options)
    print_result(result, args.iou_thres)
    note_score(run, result, options)
    curve = args.pr or Path("output") / f"pr_{run.stem}.png"
    plot_pr_curves({run.stem: result.curve}, f"{run.stem}: mAP@{args.iou_thres:g} {result.map50:.4f}", curve)
    print(f"precision-recall curve: {curve}")
    if args.mistakes:
        draw_worst(run, result, together, args.mistakes)
    if args.coco:
        print("as COCO has it: {}, {}".format(*write_coco(args.coco, run.valid, together[0], run.names)))
    if args.json:
        write_json(args.json, result.to_dict() | {"cfg": run.cfg, "weights": str(run.weights), "data": str(run.data),
                                                  "size": run.valid.size, "backend": run.backend})


class Run(NamedTuple):
    """What is scored, by what, on which images."""

    cfg: str | None
    weights: Path
    stem: str
    data: Path
    names: tuple[str, ...]
    valid: object  # utils.data.datasets.ListDataset
    model: object  # a Darknet, or the exported file
    backend: str
    predict: Callable
    words: str


def of_net(args: argparse.Namespace) -> Run:
    """The network of --cfg and --weights, ready to run."""
    from models import Darknet
    from utils import processes
    from utils.data.args import ReadOptions
    from utils.data.data_config import parse_data_config
    from utils.data.net_classes import data_for_net
    from utils.data.prepare import data_of, labelled_dataset
    from utils.deploy.backends import same_backend
    from utils.loading import default_weights, load_net, resolve_cfg, select_device, stem
    from utils.parse_config import class_count

    _, _, device = processes.start(select_device(args.device, args.threads))
    cfg = resolve_cfg(args.cfg)
    weights = Path(args.weights or default_weights(cfg))
    data = parse_data_config(args.data or data_of(weights), args.class_path)
    net = load_net(cfg, weights, Darknet, args.img_size)
    model, size = net.model.to(device), net.size
    data = data_for_net(data, net.names, class_count(model.module_defs), weights)
    valid = labelled_dataset(cli.options_of(ReadOptions, args), data, "valid", size)
    backend, predict = same_backend(args.backend, model, size, len(valid), weights)
    words = (f"{cfg}, {weights}: {net.words}; {data.path}, "
             f"{len(valid)} images at {size[0]}x{size[1]} on {device}, by {backend}")
    return Run(str(cfg), weights, stem(cfg), data.path, data.names, valid, model, backend, predict, words)


def of_file(args: argparse.Namespace) -> Run:
    """The exported file of --weights, ready to run."""
    import torch

    from utils import processes
    from utils.data.args import ReadOptions
    from utils.data.data_config import parse_data_config
    from utils.data.net_classes import data_for_net
    from utils.data.prepare import labelled_dataset
    from utils.deploy.runtimes import open_on_cpu

    data = parse_data_config(args.data or cli.DEFAULT_DATA, args.class_path)
    processes.start(torch.device("cpu"))
    file = open_on_cpu(args.weights, args.backend, args.img_size, args.device, args.threads)
    data = data_for_net(data, file.metadata.names, len(file.metadata.names), file.path)
    valid = labelled_dataset(cli.options_of(ReadOptions, args), data, "valid", file.size)
    words = f"{file.words()}; {data.path}, {len(valid)} images at {file.size[0]}x{file.size[1]}"
    return Run(None, file.path, file.path.stem, data.path, data.names, valid, file, file.runtime, file.predict, words)


def note_score(run: Run, result, options) -> None:
    """Keep the score of a net in bfloat16 or float32 beside its weights, for --backend auto, where the processor
    computes in bfloat16."""
    from dataclasses import asdict

    from utils.deploy.backends import FLOATS
    from utils.deploy.onnx_runtimes import BF16
    from utils.deploy.processor import computes_bf16
    from utils.deploy.score_note import BFLOAT16, FLOAT32, ScoreNote

    if run.cfg is None or run.backend not in (*FLOATS, BF16) or not computes_bf16():
        return
    note = ScoreNote.of(run.weights)
    conditions = {"data": str(run.data), "images": len(run.valid), "size": list(run.valid.size), **asdict(options)}
    precision = BFLOAT16 if run.backend == BF16 else FLOAT32
    try:
        note.add(run.model, precision, (result.map50, result.map), conditions)
    except OSError as error:
        print(f"warning: the score could not be noted for --backend auto: {error}")
    else:
        print(f"{precision} score noted for --backend auto: {note.path}")


def draw_worst(run: Run, result, together: tuple[list, list], path: Path) -> None:
    """A sheet of the images with the most mistakes, at the score that detect.py would be given, and their counts."""
    from utils.deploy.drawing import draw_mistakes
    from utils.evaluation.mistakes import find_mistakes
    from utils.output import counted
    from utils.sheet import write_sheet

    score = result.sure.score if result.sure else result.conf
    by_image = find_mistakes(*together, score, result.options.iou_thres)
    worst = [mistakes for mistakes in by_image[:16] if len(mistakes)]
    missed, false = (sum(map(len, rows)) for rows in zip(*((one.missed, one.false_alarms) for one in by_image)))
    words = f"at score {score:.2f}: {missed} of {counted(result.n_targets, 'object')} missed, {false} false alarms"
    if not worst:
        print(f"{words}: no mistake to draw")
        return
    images = [run.valid[one.image][0].permute(1, 2, 0).numpy() for one in worst]
    write_sheet(path, [draw_mistakes(image, one, list(run.names)) for image, one in zip(images, worst)])
    print(f"{words}; the {counted(len(worst), 'image')} with the most of them: {path}")


def print_result(result, iou_thres: float) -> None:
    """The numbers of an EvalResult, and a row a class where there are several."""
    from utils.evaluation.words import cap_words, scorer_words
    from utils.output import ascii_table, counted

    header = [f"AP@{iou_thres:g}", "AP@[.5:.95]", "Precision", "Recall"]
    rows = [
        ["Class", "Objects", *header],
        ["all", result.n_targets, *[f"{x:.4f}" for x in (result.map50, result.map, result.precision, result.recall)]],
    ]
    if len(result.per_class) > 1:
        rows += [[c.name, c.n_targets, *[f"{x:.4f}" for x in (c.ap50, c.ap, c.precision, c.recall)]]
                 for c in result.per_class]
    print(ascii_table(rows))
    print(
        f"F1 {result.f1:.4f}; precision and recall are "
        + (f"at score {result.conf:.3f}, where F1 is highest" if result.conf else "those of all detections")
    )
    if sure := result.sure:
        empty = f", {sure.false_alarms_empty:.2f} on the {counted(sure.n_empty, 'image')} without objects"
        print(f"detect.py --conf_thres {sure.score:.2f}: precision {sure.precision:.2f}, recall {sure.recall:.2f}, "
              f"false alarms {sure.false_alarms:.2f} per image{empty * bool(sure.n_empty)}")
    if result.by_size:
        print("AP@[.5:.95] by box size on the input: " + ", ".join(
            f"{size.name} {size.map:.4f} ({counted(size.n_targets, 'object')})" for size in result.by_size)
            + "; 32 x 32 and 96 x 96 px tell them apart")
    print(f"{scorer_words(result.options)}; {cap_words(result.options)}")


if __name__ == "__main__":
    cli.run(main, several_processes=True)
