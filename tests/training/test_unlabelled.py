"""Pictures that nobody labelled: pruned and tuned by the boxes and maps of the dense net."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import test_prune
import train
from conftest import make_dataset, randomise
from models import Darknet
from utils.checkpoint import read_checkpoint, save_checkpoint, weights_content
from utils.data.data_config import parse_data_config
from utils.data.datasets import DataError, ListDataset
from utils.deploy.detector import Detector
from utils.evaluation.own_labels import SCORE, label_by
from utils.parse_config import parse_model_config, rebuild_heads, write_model_config
from utils.pruning.args import parse_prune_args, prune_options
from utils.pruning.job import load
from utils.pruning.plan import score_groups
from utils.training.distillation import load_teacher

NAMES = ["person", "bicycle", "car"]


@pytest.fixture
def net(tiny_cfg, tmp_path, monkeypatch):
    """A folder with a net of three classes that finds something everywhere, and pictures without labels."""
    monkeypatch.chdir(tmp_path)
    write_model_config("net.cfg", rebuild_heads(parse_model_config(tiny_cfg), len(NAMES)))
    torch.manual_seed(0)
    model = Darknet("net.cfg").eval()
    randomise(model, zero_share=0.0)
    for head_i in model.head_layers():
        bias = model.module_list[head_i - 1][0].bias.data.view(len(model.module_list[head_i].anchors), -1)
        bias[:, 4:] = 1.0
        model.module_list[head_i - 1][0].weight.data *= 0.1
    save_checkpoint("net.pth", weights_content(model, "net.cfg", "", names=NAMES))
    listing = make_dataset(tmp_path / "set", 6, size=(64, 64))
    for path in (tmp_path / "set/labels").iterdir():
        path.unlink()
    Path("set.yaml").write_text(f"train: {listing}\nval: {listing}\nnames: [person, bicycle, car]\n")
    return model


def options(*flags):
    return prune_options(parse_prune_args("", ["--cfg", "net.cfg", "--weights", "net.pth", "--data", "set.yaml",
                                               "--n_cpu", "0", "--batch_size", "4", *flags]))


def test_labels_are_the_boxes_that_the_detector_finds(net):
    images = ListDataset(parse("val"), (64, 64), 3)
    label_by(net, images)
    detector = Detector(net, NAMES, (64, 64), conf_thres=SCORE, nms_thres=0.5)
    for path, rows in zip(images.images, images.labels):
        found = torch.as_tensor(detector.detect(path))
        x1, y1, x2, y2 = found[:, :4].T / 64
        right = torch.stack([found[:, 5], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
        right = right[(right[:, 3:] > 0).all(1)]
        assert len(rows) == len(right) > 0
        gaps = torch.cdist(torch.from_numpy(rows).double(), right.double())  # of equal scores any may be first
        assert max(gaps.min(0).values.max(), gaps.min(1).values.max()) < 1e-3


def parse(part):
    return Path("set.yaml").read_text().split(f"{part}: ")[1].split("\n")[0]


def test_the_dense_net_agrees_with_itself_and_gradients_come_from_its_boxes(net, capsys):
    job = load(options("--unlabelled", "--score", "taylor"), Darknet)
    assert job.before.map50 > 0.9
    assert "mAP is agreement" in capsys.readouterr().out
    assert (score_groups(job) > 0).any()
    assert sum(len(targets) for _, targets in job.train_batches(1, labelled=True)) > 0


def test_labels_that_lie_there_are_not_read(net):
    Path("set/labels/0.txt").write_text("79 no label of these classes")
    job = load(options("--unlabelled", "--score", "taylor"), Darknet)
    assert (score_groups(job) > 0).any()


def test_without_labels_the_error_names_the_way(net):
    with pytest.raises(DataError, match="--unlabelled takes the net's own boxes"):
        load(options(), Darknet)


def test_a_net_cut_to_a_class_is_tuned_by_the_whole_net_on_pictures_alone(net, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["test_prune.py", *"--cfg net.cfg --weights net.pth --data set.yaml --n_cpu 0 "
                                     "--repeats 0 --percent 0.3 --out out --unlabelled --keep-classes car".split()])
    test_prune.main()
    tune = ("--cfg out/prune_net.cfg -pre out/checkpoints/prune_net_ckpt.pth --data set.yaml --n_cpu 0 --epochs 2 "
            "--batch_size 2 --keep-classes car --no-publish --no-pictures --name tuned --teacher-cfg net.cfg "
            "--teacher-weights net.pth").split()
    monkeypatch.setattr("sys.argv", ["train.py", *tune])
    train.main()
    said = capsys.readouterr().out
    assert "training learns from the teacher's maps alone" in said and "agreement with the teacher's boxes" in said
    assert list(read_checkpoint("logs/tuned/last.pth")["names"]) == ["car"]


def test_unlabelled_training_needs_a_teacher(capsys):
    with pytest.raises(SystemExit):
        train.parse_args(["--unlabelled"])
    assert "found no teacher" in capsys.readouterr().err


def test_a_teacher_that_knows_the_classes_in_another_order_teaches_them_in_the_datas(net):
    order = [2, 0, 1]
    data = parse_data_config("set.yaml")
    swapped = replace(data, names=tuple(NAMES[i] for i in order))
    student = Darknet("net.cfg")
    image = torch.rand(1, 3, 64, 64)
    plain = load_teacher("net.cfg", "net.pth", student, data)(image)
    taught = load_teacher("net.cfg", "net.pth", student, swapped)(image)
    torch.testing.assert_close(taught[..., :5], plain[..., :5])
    torch.testing.assert_close(taught[..., 5:], plain[..., 5:][..., order])


def test_a_teacher_of_other_input_channels_is_refused(net, tmp_path):
    grey = tmp_path / "grey.cfg"
    text = Path("net.cfg").read_text()
    grey.write_text(re.sub(r"(\[net\]\n)((?:channels=.*\n)?)", r"\1channels=1\n", text.replace("channels=3\n", "")))
    with pytest.raises(ValueError, match="input channels than the student's"):
        load_teacher("net.cfg", "net.pth", Darknet(grey), parse_data_config("set.yaml"))
