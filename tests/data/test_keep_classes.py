"""test_prune.py --keep-classes: heads cut to some classes, exact; names and data follow."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import export
import test as scoring
import test_prune
import train
from conftest import make_dataset, options_of, randomise
from models import Darknet
from nets import FOREIGN, ODD, ROUTE, TINY_YOLO, cfg_text
from utils.checkpoint import read_checkpoint, save_checkpoint, weights_content
from utils.data.data_config import parse_data_config
from utils.data.keep_classes import cut_heads
from utils.data.prepare import ReadOptions, dataset
from utils.deploy.runtimes import open_exported
from utils.class_names import read_names
from utils.parse_config import class_count, parse_model_config, rebuild_heads, write_model_config
from utils.text import CfgError
from utils.pruning import iterative, stages

NAMES = ["person", "bicycle", "car", "cat", "traffic light"]
KEPT = [2, 0]  # car, person


@pytest.mark.parametrize("text", [TINY_YOLO, cfg_text(ODD, joins=ROUTE),
                                  cfg_text(FOREIGN)], ids=["yolo", "region", "gaussian"])
def test_kept_logits_boxes_and_objectness_are_those_of_the_whole_net(text, tmp_path):
    (tmp_path / "net.cfg").write_text(text)
    torch.manual_seed(0)
    whole = Darknet(rebuild_heads(parse_model_config(tmp_path / "net.cfg"), len(NAMES))).double().eval()
    randomise(whole)
    defs, state = cut_heads(whole.module_defs, whole.state_dict(), KEPT)
    few = Darknet(defs).double().eval()
    few.load_state_dict(state)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    assert class_count(defs) == 2
    for head, small, raw, own in zip(whole.heads(), few.heads(), whole.raw_maps(image), few.raw_maps(image)):
        kept = [*range(5), *(5 + label for label in KEPT)]
        torch.testing.assert_close(small.split(own), head.split(raw)[..., kept], rtol=0, atol=1e-12)
        torch.testing.assert_close(small.decode(own, 64, 64)[..., :5], head.decode(raw, 64, 64)[..., :5])


@pytest.fixture
def net(tiny_cfg, tmp_path, monkeypatch):
    """A folder with a trained net of five classes, all.data of these and some.data of car and person alone."""
    monkeypatch.chdir(tmp_path)
    write_model_config("net.cfg", rebuild_heads(parse_model_config(tiny_cfg), len(NAMES)))
    torch.manual_seed(0)
    model = Darknet("net.cfg")
    randomise(model)
    save_checkpoint("net.pth", weights_content(model, "net.cfg", "", names=NAMES))
    Path("all.names").write_text("\n".join(NAMES))
    Path("some.names").write_text("car\nperson\n")
    for name, classes, labels in (("all", 5, (2, 0, 4)), ("some", 2, (0, 1))):
        listing = make_dataset(tmp_path / name, 6)
        for i, path in enumerate(sorted((tmp_path / name / "labels").iterdir())):
            path.write_text(f"{labels[i % len(labels)]}{path.read_text()[1:]}")
        Path(f"{name}.data").write_text(f"classes={classes}\ntrain={listing}\nvalid={listing}\nnames={name}.names\n")
    return model


def prune(monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["test_prune.py", "--cfg", "net.cfg", "--weights", "net.pth", "--n_cpu", "0",
                                     "--percent", "0.3", "--repeats", "0", "--out", "out", *flags])
    test_prune.main()
    return read_checkpoint("out/checkpoints/prune_net_ckpt.pth")


@pytest.mark.parametrize("data, names", [("all.data", ["person", "car"]), ("some.data", ["car", "person"])])
def test_names_and_labels_follow_the_classes_that_are_kept(net, monkeypatch, capsys, data, names):
    content = prune(monkeypatch, "--data", data, "--keep-classes", "car,Person")
    assert list(content["names"]) == names and class_count(content["module_defs"]) == 2
    assert read_names("out/net-pruned.names") == names
    assert "next: python train.py --model_def out/prune_net.cfg" in (said := capsys.readouterr().out)
    assert f"train.py --model_def out/prune_net.cfg --weights none --data {data} --keep-classes car,Person\n" in said
    assert "--keep-classes car,Person" in said and "cut from 5 to 2 classes" in said
    monkeypatch.setattr("sys.argv", ["test.py", "--cfg", "out/prune_net.cfg", "--weights", "out/weights/x", "--data",
                                     data, "--n_cpu", "0", "--weights", "out/prune_net_ckpt.pth"])
    scoring.main()
    assert ("of its 5 classes the net's count: person, car" in capsys.readouterr().out) == (data == "all.data")


def test_the_labels_of_kept_classes_alone_count_under_their_new_numbers(net):
    config = parse_data_config("all.data", keep=("car", "person"))
    assert config.names == ("person", "car") and config.classes == 2
    images = dataset(ReadOptions(), config, "train", (64, 64))
    assert [rows[:, 0].tolist() for rows in images.labels] == [[1], [0], [], [1], [0], []]


def test_an_unknown_class_is_one_line_that_lists_near_ones(net, monkeypatch):
    with pytest.raises(CfgError, match="found 'persn', expected classes of net.pth; did you mean person"):
        prune(monkeypatch, "--data", "all.data", "--keep-classes", "car,persn")
    assert not Path("out").exists()


def test_training_goes_on_with_the_kept_classes(net, monkeypatch, capsys):
    prune(monkeypatch, "--data", "all.data", "--keep-classes", "person,car")
    monkeypatch.setattr("sys.argv", ["train.py", "--cfg", "out/prune_net.cfg", "--data", "all.data", "--n_cpu", "0",
                                     "-pre", "out/checkpoints/prune_net_ckpt.pth", "--keep-classes", "person,car",
                                     "--epochs", "1", "--no-publish", "--no-pictures", "--name", "tuned"])
    train.main()
    assert "heads" not in capsys.readouterr().out.split("next:")[1]
    assert list(read_checkpoint("logs/tuned/last.pth")["names"]) == ["person", "car"]


@pytest.fixture
def told(net, monkeypatch, capsys):
    """What a script prints of the net, on data files of the same labels: swapped.data with its classes in another
    order, numbers.data without names, twice.data with a name that is there twice."""
    Path("swapped.names").write_text("\n".join(reversed(NAMES)))
    Path("twice.names").write_text("\n".join([NAMES[0], *NAMES[:4]]))
    for name in ("swapped", "twice"):
        Path(f"{name}.data").write_text(Path("all.data").read_text().replace("all.names", f"{name}.names"))
    Path("numbers.data").write_text(Path("all.data").read_text().replace("names=all.names\n", ""))

    def run(script, data, *flags):
        monkeypatch.setattr("sys.argv", ["script", "--cfg", "net.cfg", "--weights", "net.pth", "--data", data, *flags])
        script.main()
        return capsys.readouterr().out
    return run


def test_classes_in_another_order_are_matched_by_their_names(told, monkeypatch):
    said = told(scoring, "swapped.data", "--n_cpu", "0", "--json", "one.json")
    assert f"swapped.data: numbered as the net's: {', '.join(NAMES)}" in said
    content = prune(monkeypatch, "--data", "swapped.data")
    assert list(content["names"]) == NAMES
    counts = {row["name"]: row["n_targets"] for row in json.loads(Path("one.json").read_text())["per_class"]}
    order = list(reversed(NAMES))  # labels 2, 0, 4 of every three pictures
    assert {name for name, count in counts.items() if count} == {order[2], order[0], order[4]}


def test_the_pictures_of_an_export_have_the_nets_numbers_and_do_not_say_so_again(told, capsys):
    args = export.parse_args(["--data", "swapped.data", "--precision", "int8"])
    pictures = export.pictures_of(args, SimpleNamespace(names=tuple(NAMES), size=(64, 64)))
    assert not capsys.readouterr().out
    # label i of these data is class 4 - i of the net
    written = [int(path.read_text()[0]) for path in sorted(Path("all", "labels").iterdir()) if path.read_text()]
    assert [int(rows[0, 0]) for rows in pictures.valid.labels if len(rows)] == [4 - label for label in written]


def test_training_goes_on_and_is_resumed_with_the_numbers_of_the_start(told, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", "--cfg", "net.cfg", "--data", "swapped.data", "--n_cpu", "0", "-pre",
                                     "net.pth", "--epochs", "1", "--no-publish", "--no-pictures", "--name", "more"])
    train.main()
    assert list(read_checkpoint("logs/more/last.pth")["names"]) == NAMES
    monkeypatch.setattr("sys.argv", ["train.py", "--resume", "logs/more", "--epochs", "2", "--n_cpu", "0"])
    train.main()
    assert list(read_checkpoint("logs/more/last.pth")["names"]) == NAMES


def test_steps_of_a_net_of_some_of_the_datas_classes_tune_it_for_these(net, monkeypatch):
    prune(monkeypatch, "--data", "all.data", "--keep-classes", "person,car")
    options = iterative.checked(options_of(["--cfg", "out/prune_net.cfg", "--weights", "out/prune_net_ckpt.pth",
                                            "--data", "all.data", "--n_cpu", 0]))
    assert "person,car" in stages.training_flags(options)


def test_names_of_a_file_replace_those_of_the_data(told):
    Path("own.names").write_text("\n".join("abcde"))
    told(export, "all.data", "--class_path", "own.names", "--format", "torchscript", "--out", "own.torchscript")
    assert open_exported(Path("own.torchscript")).metadata.names == tuple("abcde")


def test_a_data_file_without_names_leaves_the_net_its_own(told):
    export_flags = "--format", "torchscript", "--out", "net.torchscript"
    told(export, "numbers.data", *export_flags)
    assert list(open_exported(Path("net.torchscript")).metadata.names) == NAMES


def test_a_name_that_two_classes_have_is_refused_where_it_has_to_be_found(told):
    with pytest.raises(CfgError, match=f"twice.data: found '{NAMES[0]}' as the name of 2 classes"):
        parse_data_config("twice.data", keep=(NAMES[0],))


def test_a_net_of_some_of_the_datas_classes_is_pruned_and_exported_by_name(net, monkeypatch, capsys):
    prune(monkeypatch, "--data", "all.data", "--keep-classes", "person,car")
    slim = "--cfg", "out/prune_net.cfg", "--weights", "out/prune_net_ckpt.pth", "--data", "all.data"
    monkeypatch.setattr("sys.argv", ["test_prune.py", *slim, "--n_cpu", "0", "--percent", "0.1", "--repeats", "0",
                                     "--out", "again"])
    test_prune.main()
    assert "--keep-classes person,car" in capsys.readouterr().out.split("next:")[1]
    monkeypatch.setattr("sys.argv", ["export.py", *slim, "--format", "torchscript", "--out", "slim.torchscript"])
    export.main()
    assert open_exported(Path("slim.torchscript")).metadata.names == ("person", "car")
