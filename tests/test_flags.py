"""Command lines: flags in either spelling, mistakes in one line, and what an error about a missing file advises."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import detect
from benchmarks.__main__ import parse_args as benchmark_command
from conftest import HANG, ROOT
from utils import cli, loading
from utils.deploy.args import parse_export_args
from utils.doctor import parse_args as doctor_command
from utils.origin import RECIPES, missing, origin
from utils.pruning import stages
from utils.pruning.args import parse_prune_args
from utils.training.args import parse_train_args

MODULES = ("train", "test_prune", "detect", "export", "test", "data.converter", "data.synthesize_hands",
           "data.download_oxford", "data.import_dataset", "config.create_hand_model", "weights.download_weights",
           "utils.doctor",
           "benchmarks.__main__", "examples.demo", "benchmarks.sparsity", "benchmarks.tradeoff",
           "benchmarks.hands")


def parse_args_of(module):
    """parse_args of a script; test.py by its path, since Python has a package of that name."""
    spec = importlib.util.spec_from_file_location(module.replace(".", "_"), ROOT / f"{module.replace('.', '/')}.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    return script.parse_args


def doctor_args(_, words):
    return doctor_command(words)


def benchmark_args(_, words):
    return benchmark_command(words)


def parser_of(parse, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(
            argparse.ArgumentParser, "parse_args", lambda parser, argv=None: seen.append(parser) or parser.exit()
        )
        with pytest.raises(SystemExit):
            parse([])
    return seen[0]


def example(action):
    """Words that give a flag a value."""
    if action.nargs == 0:
        return []
    value = next(iter(action.choices)) if action.choices else action.default
    value = value[0] if isinstance(value, (list, tuple)) and value else value
    value = 1 if value in (None, "", argparse.SUPPRESS, []) else value
    value = {"size": 32, "min_visible": 0.5, "sides": 0.5, "map": "a=b"}.get(action.dest, value)
    return [str(value)] * (action.nargs if isinstance(action.nargs, int) else 1)


@pytest.mark.parametrize("module", MODULES)
def test_every_flag_of_every_script_is_known_with_hyphens_and_with_underscores(module, monkeypatch):
    parser = parser_of(parse_args_of(module), monkeypatch)
    flags = [(name, action) for action in parser._actions for name in action.option_strings
             if name.startswith("--") and action.dest != "help"]
    for action in parser._actions:
        action.required = False
    for name, action in flags:
        said = vars(parser.parse_args([name, *example(action)]))
        body = name[2:]
        for other in ("--" + body.replace("_", "-"), "--" + body.replace("-", "_")):
            assert vars(parser.parse_args([other, *example(action)])) == said
            if len(example(action)) == 1:
                assert vars(parser.parse_args([f"{other}={example(action)[0]}"])) == said
    assert flags or module == "weights.download_weights"


def test_values_and_what_follows_two_hyphens_stay_as_they_are():
    args = parse_prune_args("", ["--max_drop", "0.1", "--tune=--img-size 64", "--out", "a-b_c", "--no_eval"])
    assert (args.max_drop, args.tune, str(args.out), args.no_eval) == (0.1, "--img-size 64", "a-b_c", True)
    assert parse_train_args("", ["--no_amp", "-sr", "--s_schedule", "ease", "-lr", "0.1"]).s_schedule == "ease"
    parser = parser_of(detect.parse_args, pytest.MonkeyPatch())
    assert parser.spelled(["--max_frames", "--", "--max_frames"]) == ["--max-frames", "--", "--max_frames"]


@pytest.mark.parametrize("parse, words, complaint", [
    (parse_train_args, "--distill-gain 2", "found --distill-gain without --teacher-cfg"),
    (parse_prune_args, "--quantise none", "found --quantise without --road"),
    (parse_prune_args, "--sparse=--epochs=3 --steps 2", "found --sparse without --road"),
    (parse_prune_args, "--calibration 9", "found --calibration without --int8"),
    (parse_prune_args, "--percent 0.5 --target-flops 0.3", "found --percent beside --target-flops"),
    (parse_prune_args, "--percent 0.5 --max-drop 0.02", "found --percent beside --max-drop"),
    (parse_prune_args, "--score taylor --group-norm l2 --target-flops 0.3", "found --group-norm beside --score taylor"),
    (parse_train_args, "--bf16 --no-amp", "found --no-amp beside --bf16"),
    (parse_train_args, "--unlabelled --teacher-cfg a.cfg --teacher-weights a.pth --box_loss mse --ignore_iou 0.5",
     "found --box_loss and --ignore_iou beside --unlabelled"),
    (parse_train_args, "--cfg a.cfg --width 0.5", "found --width beside --cfg"),
    (doctor_args, "--batch 8 --img_size 416", "found --batch and --img_size without --cfg"),
    (benchmark_args, "--weights a.pth --data a.data", "found --weights and --data without --only deploy"),
    (benchmark_args, "--only nms --target 0.5", "found --target without --only forward"),
    (parse_export_args, "--max_drop 0.1 --precision float16", "found --max-drop without --precision int8"),
    (parse_export_args, "--conf_thres 0.1", "found --conf_thres without --nms"),
])
def test_a_flag_that_would_say_nothing_is_refused(capsys, parse, words, complaint):
    with pytest.raises(SystemExit) as ended:
        parse("", words.split())
    assert ended.value.code == 2 and complaint in capsys.readouterr().err


@pytest.mark.parametrize("words, said", [
    ("--warmup 100 --epochs 2", "warning: --warmup 100 with --epochs 2: in this run the learning rate only rises"),
    ("--rewind 5 --epochs 10", "warning: --rewind 5 with --epochs 10: it says nothing"),
    ("--rewind 10 --epochs 10", "warning: --rewind 10 with --epochs 10: it says nothing"),
    ("--warmup 2 --epochs 2", ""), ("--rewind 100 --epochs 30 --warmup 40", ""), ("--epochs 1", "")])
def test_a_learning_rate_that_will_not_go_as_the_flags_suggest_is_said(words, said, capsys):
    parse_train_args("", words.split())
    found = capsys.readouterr().out
    assert said in found and bool(found) == bool(said)


@pytest.mark.parametrize("script, flag", [("detect", "--out"), ("test", "--mistakes"), ("test", "--json"),
                                          ("test", "--pr"), ("test_prune", "--out")])
def test_a_place_where_nothing_can_be_written_is_said_before_the_work(script, flag, tmp_path, capsys):
    parse = parse_args_of(script)
    (tmp_path / "file").touch()
    kind, blocked = ("file", tmp_path / "file") if flag == "--out" else ("folder", tmp_path)
    for place, found in ((blocked, f"{blocked}: found a {kind}"), (tmp_path / "file" / "x", "file: found a file")):
        with pytest.raises(SystemExit) as ended:
            parse([flag, str(place)])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and f"argument {flag}: " in error and found in error and error.count("\n") == 1
    assert getattr(parse([flag, str(tmp_path / "new" / "x")]), flag[2:]) == tmp_path / "new" / "x"


def test_cocos_files_are_of_the_letterboxed_scorers_alone(tmp_path, capsys):
    parse = parse_args_of("test")
    with pytest.raises(SystemExit) as ended:
        parse(["--coco", str(tmp_path), "--scorer", "reference"])
    assert ended.value.code == 2 and "--coco: found --scorer reference beside it" in capsys.readouterr().err
    assert parse(["--coco", str(tmp_path), "--scorer", "compat"]).coco == tmp_path


@pytest.mark.parametrize("parse, words", [
    (parse_train_args, "-sr --s 0.01 --percent 0.5"),
    (parse_train_args, "--resume logs/run --s 0.01"),  # the run says whether it is sparse
    (parse_train_args, "--teacher-cfg a.cfg --teacher-weights a.pth --distill-gain 2"),
    (parse_prune_args, "--road --quantise none --target-flops 0.3"),
    (parse_prune_args, "--score l1 --group-norm l2 --percent 0.5"),
    (parse_train_args, "--bf16 --amp"),
    (doctor_args, "--cfg a.cfg --batch 8"),
    (benchmark_args, "--only deploy --weights a.pth"),
    (parse_prune_args, "--percent 0.5 --max-drop 0.1 --int8 --calibration 9"),
    (parse_export_args, "--precision int8 --max-drop 0.1 --nms --conf_thres 0.1"),
])
def test_beside_its_partner_it_is_taken(parse, words):
    assert parse("", words.split())


def test_steps_drop_their_flags_in_either_spelling():
    words = ["--target_params", "0.2", "--max_drop=0.1", "--img-size", "64", "--steps", "2"]
    assert stages.without(words, ("--target-params", "--max-drop", "--steps")) == ["--img-size", "64"]


@pytest.mark.parametrize("words, said", [(["--img-siz", "3", "--imagesize"], "did you mean --img_size?"),
                                         (["--batch-sise", "3"], "did you mean --batch_size?"),
                                         (["--xyzzy"], "unrecognized arguments: --xyzzy"),
                                         (["--epochs", "0"], "argument --epochs: found 0, expected 1 or more")])
def test_a_wrong_flag_is_one_line_and_exit_status_2(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        parse_train_args("", words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("\n") == 1 and error.startswith("train.py: ")


def test_detect_finds_its_net_and_its_samples_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg, weights = detect.net_files(None, None)
    assert cfg.is_file() and Path(weights).is_file()
    assert all(Path(source).is_dir() for source in detect.parse_args([]).source)


def test_detect_takes_the_published_net_unless_told_otherwise():
    cfg, weights = detect.net_files(None, None)
    assert (ROOT / cfg).is_file() and (ROOT / weights).is_file()
    assert detect.net_files("a/yolov3-hand.cfg", None)[1] == "weights/yolov3_ckpt.pth"
    assert [str(path) for path in detect.net_files(None, "w.pth")] == ["config/yolov3-hand.cfg", "w.pth"]


@pytest.mark.parametrize("path, maker", [
    ("weights/yolov3_ckpt.pth", "train.py"), ("logs/a/best.pth", "train.py"), ("weights/best.pt", "train.py"),
    ("checkpoints/prune_yolov3_ckpt.pth", "test_prune.py"), ("config/prune2_yolov3-hand.cfg", "test_prune.py"),
    ("pruned/yolov3-pruned.weights", "test_prune.py"), ("weights/yolov3.weights", "download_weights.py yolov3.weights"),
    ("data/train.txt", "data/converter.py"), ("data/valid.txt", "data/converter.py"),
    ("config/yolov3-hand-w25.cfg", "create_hand_model.py")])
def test_an_error_about_a_missing_file_names_what_makes_it(path, maker):
    error = missing(path, "file")
    assert (
        isinstance(error, FileNotFoundError)
        and str(error).startswith(f"{path}: no such file; python ")
        and maker in str(error)
    )


@pytest.mark.parametrize("path", ["my.weights", "mine/train.txt", "my.cfg", "net.pth", "myyolov3.weights"])
def test_an_error_about_a_file_of_the_users_own_advises_nothing(path):
    assert origin(path) == "" and str(missing(path, "file")) == f"{path}: no such file"


def test_what_errors_advise_to_run_is_there():
    for words in RECIPES.values():
        script = next(word for word in words.split() if word.endswith(".py"))
        assert (ROOT / script).is_file()


def test_every_command_line_of_the_project_is_made_by_the_one_parser():
    for path in (
        path
        for folder in (".", "config", "data", "weights", "benchmarks", "utils")
        for path in (ROOT / folder).glob("*.py")
    ):
        assert "argparse.ArgumentParser(" not in path.read_text(encoding="utf-8").replace(
            "class Parser(argparse.ArgumentParser)", ""
        ), path


NONSENSE = ("nan", "inf", "-inf", "1e999", "-1", "\u00b2", "1_0", "\u0663", "", " ", "x", "0x10", "9" * 400, "1e30",
            "99999999999999999999", "1,5", "--")


@pytest.mark.parametrize("module", MODULES)
def test_no_number_flag_takes_nonsense(module, monkeypatch):
    """Every flag whose default is a number has a type, which refuses what is out of its range or is no number."""
    parser = parser_of(parse_args_of(module), monkeypatch)
    for action in parser._actions:
        action.required = False
        if action.choices or not isinstance(action.default, (int, float)) or isinstance(action.default, bool):
            continue
        for word in NONSENSE:
            with pytest.raises(argparse.ArgumentTypeError, match="found .*, expected ") as caught:
                action.type(word)
                pytest.fail(f"{action.dest} takes {word!r}")
            assert len(str(caught.value)) < 300


@pytest.mark.parametrize("words", [["--s", "1e30"], ["--lr", "inf"], ["--name", "../../x"], ["--name", "."],
                                   ["--name", "/etc"], ["--name", "a\\b"], ["--name", "a//b"], ["--name", ""],
                                   ["--img_size", "1000000"], ["--threads", "1000000000"], ["--seed", str(1 << 64)],
                                   ["--epochs", "1e3"], ["--batch_size", "-1"], ["--weight_decay", "7"],
                                   ["--iou_thres", "0"]])
def test_train_refuses_what_means_nothing(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse_train_args("", words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and words[0].lstrip("-") in error and "expected" in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["a", "a/b", "hand_2-3.x", "\u00fc ber"])
def test_a_run_may_lie_in_a_group_of_runs(name):
    assert parse_train_args("", ["--name", name]).name == name


@pytest.mark.parametrize("device", ["meta", "cuda:999", "\u00b2", "gpu", "cpu:x", "", "-1"])
def test_a_device_that_cannot_compute_is_one_line(device):
    if device == "":
        assert loading.select_device(device).type in ("cpu", "cuda")
        return
    with pytest.raises(ValueError, match=f"--device {device}: not usable here .*; use --device cpu"):
        loading.select_device(device)


def ended(error, capsys):
    """Exit status and stderr of a script whose main raises `error`."""
    def main():
        raise error
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a.cfg:3: found\nx"), FileNotFoundError("a.cfg: no such file"),
                                   MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate "
                                                               "memory: you tried to allocate 5 bytes")])
def test_wrong_input_is_one_line_and_exit_status_2(error, capsys, monkeypatch):
    monkeypatch.delenv("DEBUG", raising=False)
    status, text = ended(error, capsys)
    assert status == 2 and text.count("\n") == 1 and ("a.cfg" in text or "--batch_size" in text)


def test_a_loader_process_that_the_system_ended_is_said_to_lack_memory(capsys):
    status, text = ended(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), capsys)
    assert status == 2 and "--n_cpu" in text and text.count("\n") == 1


def test_an_endless_line_of_a_damaged_file_is_cut(capsys):
    status, text = ended(ValueError("a.cfg:1: found " + "x" * 10**6 + ", expected less"), capsys)
    assert status == 2 and len(text) < 2000 and "a.cfg:1: found" in text and text.endswith("expected less\n")


def test_a_fault_of_the_program_shows_its_traceback_and_how_to_report_it(capsys):
    status, text = ended(KeyError("x"), capsys)
    assert status == 1 and "Traceback" in text and "KeyError: 'x'" in text and text.rstrip().endswith("prints")
    assert "utils.doctor" in text.splitlines()[-1]


def test_a_script_ends_with_the_status_that_its_main_returns():
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: 2)
    assert end.value.code == 2 and cli.run(lambda: 0) is None


@pytest.mark.parametrize("script", ["train.py", "test.py", "test_prune.py", "detect.py", "export.py"])
def test_a_command_line_is_read_before_torch_is_loaded(script):
    """So that --help and a mistyped flag answer at once."""
    code = f"import runpy, sys\nsys.argv = ['{script}', '--no-such-flag']\ntry:\n    runpy.run_path('{script}', "
    code += "run_name='__main__')\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert run.stdout.split() == ["2", "False"], run.stderr
