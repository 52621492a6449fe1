"""train.py without --cfg: the cfg that it makes for the data."""

import os

import pytest

import train
from conftest import make_dataset
from models import Darknet
from utils.checkpoint import read_checkpoint
from utils.data.anchors import used_anchors
from utils.families import build
from utils.parse_config import class_count, parse_model_config
from utils.pruning.prospect import Prospect
from utils.training import new_cfg
from utils.training.args import train_options
from utils.training.new_cfg import cfg_for_data
from utils.training.trainer import Trainer


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Options of a run on eight pictures of three classes; more flags can be added."""
    monkeypatch.chdir(tmp_path)
    listing = make_dataset(tmp_path / "pictures")
    (tmp_path / "fruit.yaml").write_text(f"train: {listing}\nval: {listing}\nnames: [apple, pear, plum]\n")
    words = ["--data", "fruit.yaml", "--img_size", "64", "--n_cpu", "0"]
    return lambda *flags: train_options(vars(train.parse_args([*words, *flags])))


def test_data_of_other_classes_gets_a_small_net_with_anchors_of_its_boxes(arguments, capsys):
    with cfg_for_data(arguments()) as options:
        defs = parse_model_config(options.source.cfg)
    assert options.source.cfg == "config/yolov3-tiny-w50-fruit.cfg" and options.source.weights is None
    copy = new_cfg.Path("logs") / options.output.name / "yolov3-tiny-w50-fruit.cfg"
    assert copy.read_text() == open(options.source.cfg).read()
    base = build("yolov3-tiny", 3, 0.5, (64, 64))
    assert class_count(defs) == 3 and [s["type"] for s in defs] == [s["type"] for s in base]
    assert defs[1]["filters"] == base[1]["filters"] == "8"
    assert used_anchors(defs).max() < 64 < used_anchors(base).max()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "3 classes of fruit.yaml" in said
    assert f"python test.py --cfg {options.source.cfg}" in said


def test_a_run_with_a_made_cfg_is_trained_and_found_by_its_cfg_alone(arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py",
                                     *"--data fruit.yaml --img_size 64 --n_cpu 0 --epochs 1 --name a".split(),
                                     "--batch_size", "4", "--base", "yolov3-tiny", "--width", "0.1"])
    train.main()
    content = read_checkpoint("weights/yolov3-tiny-w10-fruit_ckpt.pth")
    assert content["module_defs"] == parse_model_config("config/yolov3-tiny-w10-fruit.cfg")
    assert list(content["names"]) == ["apple", "pear", "plum"] and content["data"] == "fruit.yaml"
    monkeypatch.setattr("sys.argv", ["train.py", "--resume", "logs/a", "--epochs", "2", "--n_cpu", "0"])
    train.main()
    assert read_checkpoint("logs/a/last.pth")["epoch"] == 2 and len(os.listdir("config")) == 1


def test_without_publishing_the_cfg_lies_in_the_run_folder_alone(arguments, capsys):
    with cfg_for_data(arguments("--no-publish", "--name", "group/b")) as options:
        pass
    assert options.source.cfg == "logs/group/b/yolov3-tiny-w50-fruit.cfg" and not os.path.exists("config")
    assert "--weights logs/group/b/best.pth" in capsys.readouterr().out


def test_a_run_that_cannot_begin_leaves_no_cfg(arguments):
    with pytest.raises(ValueError, match="expected multiples of 32"):
        with cfg_for_data(arguments("--img_size", "70")) as options:
            Trainer(options, Darknet, Prospect)
    assert not os.listdir("config") and not os.listdir("logs")


def test_a_cfg_of_the_same_name_for_other_boxes_stays(arguments):
    os.mkdir("config")
    open("config/yolov3-tiny-w50-fruit.cfg", "w").write("another")
    for _ in range(2):  # the same again is not another
        with cfg_for_data(arguments()) as options:
            assert options.source.cfg == "config/yolov3-tiny-w50-fruit-2.cfg"
    assert open("config/yolov3-tiny-w50-fruit.cfg").read() == "another"


def test_a_cfg_that_was_named_or_that_fits_is_taken_as_it_is(arguments, tiny_cfg, tmp_path):
    named = arguments("--cfg", str(tiny_cfg))
    new_cfg.write_model_config(tmp_path / "fits.cfg", build("yolov3-tiny", 3, 0.25))
    fits = train_options(arguments().given | {"cfg": str(tmp_path / "fits.cfg")})  # as a default would be
    for given in (named, fits):
        with cfg_for_data(given) as options:
            assert options is given


def test_base_and_width_stand_beside_no_cfg(arguments, capsys):
    with pytest.raises(SystemExit):
        arguments("--cfg", "a.cfg", "--base", "yolov4")
    assert "found --base beside --cfg" in capsys.readouterr().err


def test_a_base_alone_is_the_public_net_and_few_boxes_leave_its_anchors(arguments, tmp_path, capsys):
    for label in (tmp_path / "pictures/labels").glob("[1-7].txt"):
        label.unlink()
    with cfg_for_data(arguments("--base", "yolov4-tiny", "--img_size", "96")) as options:
        assert parse_model_config(options.source.cfg) == build("yolov4-tiny", 3, 1.0, (96, 96))
    assert "the base's own 5 anchors" in capsys.readouterr().out
