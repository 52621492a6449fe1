"""The shape of the code: which way imports go, and the habits that are kept everywhere."""

import ast
import re
import sys
from graphlib import TopologicalSorter

import pytest

from conftest import ROOT
from utils import loading

SCRIPTS = {"train", "test", "test_prune", "detect", "export"}
OURS = {"utils", "models", "data", "config", "benchmarks", "examples", "conftest", "nets", "tests"}
FOLDERS = ("benchmarks", "config", "data", "examples", "weights")
FILES = sorted([*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py"),
                *(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.py"))])


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            assert all(alias.name != "*" for alias in node.names), f"{path}: star import"


ROOMS = {"": 0, "data": 1, "evaluation": 2, "training": 3, "deploy": 3, "pruning": 4}  # of utils: who stands on whom
RUN_AS_MODULES = ("utils.doctor",)  # python -m ...: scripts, which stand on all rooms
FLOORS = 7  # of one room, at most


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module):
    return module.split(".")[1] if module.count(".") > 1 else ""


def imports_in_utils():
    """module of utils -> the modules of utils that it imports, wherever in the file."""
    modules = {module_of(path): path for path in ROOT.glob("utils/**/*.py")
               if path.stem != "__init__" and module_of(path) not in RUN_AS_MODULES}
    found = {}
    for module, path in modules.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        named = {name for node in nodes for name in (node.module, *(f"{node.module}.{a.name}" for a in node.names))}
        found[module] = named & modules.keys() - {module}
    return found


def test_a_room_of_utils_imports_none_that_stands_above_or_beside_it():
    upward = {(module, other) for module, others in imports_in_utils().items() for other in others
              if room_of(module) != room_of(other) and ROOMS[room_of(other)] >= ROOMS[room_of(module)]}
    assert not upward


def test_imports_of_utils_run_in_no_circle_and_a_room_has_few_floors():
    graph = imports_in_utils()
    levels = list(TopologicalSorter(graph).static_order())  # raises CycleError
    floors = {}
    for module in levels:
        own = [floors[other] for other in graph[module] if room_of(other) == room_of(module)]
        floors[module] = 1 + max(own, default=0)
    assert max(floors.values()) <= FLOORS, {module: floor for module, floor in floors.items() if floor > FLOORS}


def test_no_line_is_wider_than_120_columns():
    for path in [*FILES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("docs/*.py")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 120, f"{path}:{number} has {len(line)} columns"


def test_no_file_imports_a_script():
    for path in FILES:
        assert not {name.split(".")[0] for name in imports_of(path)} & SCRIPTS, path


def test_utils_never_import_the_model():
    """scripts -> models -> utils, never back: what needs a network is handed its class, or one to copy."""
    for path in ROOT.glob("utils/**/*.py"):
        assert "models" not in set(imports_of(path)), path


def test_algebra_knows_no_run():
    """What is pure stays pure: no trainer and no pruning job below it."""
    for name in ("parse_config", "shapes", "boxes", "loss", "evaluation/nms", "evaluation/metrics",
                 "evaluation/matching", "training/schedule", "pruning/channel_graph", "pruning/importance",
                 "pruning/selection", "pruning/surgery"):
        imported = set(imports_of(ROOT / "utils" / f"{name}.py"))
        assert not {"utils.training.trainer", "utils.pruning.job"} & imported, name


def test_a_command_line_is_read_once():
    """Scripts and utils/*/args.py make options of it; whoever does the work is handed those."""
    for path in ROOT.glob("utils/**/*.py"):
        if path.name not in ("args.py", "cli.py", "checkpoint.py", "doctor.py"):
            assert "argparse" not in set(imports_of(path)), path


def test_the_way_of_a_pruning_enters_each_file_once():
    """main() of test_prune.py calls what it imports from utils in one order of files, never back."""
    main = next(node for node in ast.parse((ROOT / "test_prune.py").read_text()).body
                if isinstance(node, ast.FunctionDef) and node.name == "main")
    nodes = [node for node in ast.walk(main) if isinstance(node, ast.ImportFrom)]
    origin = {a.name: node.module if node.module != "utils.pruning" else f"{node.module}.{a.name}"
              for node in nodes for a in node.names}
    calls = [node for node in ast.walk(main) if isinstance(node, ast.Call)]
    done = sorted(calls, key=lambda node: (node.end_lineno, node.end_col_offset))  # an argument before its function
    names = [getattr(node.func, "id", None) or getattr(node.func.value, "id", None) for node in done]
    ways_round = ("utils.pruning.iterative", "utils.pruning.road")  # they run main() itself, as commands
    files = [origin[name] for name in names if name in origin and origin[name] not in ways_round]
    entered = [file for file, before in zip(files, [None, *files]) if file != before]
    assert len(entered) == len(set(entered)) > 4, entered


def test_model_needs_only_cfg_weights_activations_shapes_and_small_tensors():
    """At the top of the file; `load`, which makes a net ready to detect, imports what it needs itself."""
    top = [node for node in ast.parse((ROOT / "models.py").read_text()).body if isinstance(node, ast.ImportFrom)]
    project = {node.module for node in top if node.module.startswith("utils")}
    assert project == {"utils.darknet_weights", "utils.layers", "utils.parse_config", "utils.shapes", "utils.tensors"}


def test_every_import_is_a_requirement_or_the_standard_library():
    """A package that a machine happens to have would hide a missing line."""
    packages = {"cv2": "opencv-python", "PIL": "Pillow", "yaml": "PyYAML", "torch_pruning": "torch-pruning",
                "ai_edge_litert": "ai-edge-litert", "litert_torch": "litert-torch"}
    listed = "".join(
        (ROOT / name).read_text().lower()
        for name in ("requirements.txt", "requirements-dev.txt", "requirements-optional.txt")
    )
    for path in [*FILES, *ROOT.glob("tests/**/*.py")]:
        for name in {name.split(".")[0] for name in imports_of(path)}:
            if name not in sys.stdlib_module_names | SCRIPTS | OURS:
                assert packages.get(name, name).lower() in listed, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_public_ones_documented(path):
    """At most 40 lines and 6 parameters: what needs more is two things, or takes an options object."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = [a.arg for a in named if a.arg not in ("self", "cls")]
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 40, f"{path}:{node.lineno} {node.name} has {lines} lines"
            assert len(parameters) <= 6, f"{path}:{node.lineno} {node.name} takes {', '.join(parameters)}"
    bodies = [tree.body] + [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]:
        if "utils" in path.parts and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize(
    "cfg, stem",
    [
        ("config/yolov3-hand.cfg", "yolov3"),
        ("config/yolov3-tiny-hand.cfg", "yolov3-tiny"),
        ("a/yolov3-hand-w25.cfg", "yolov3-w25"),
        ("config/prune_yolov3-hand.cfg", "prune_yolov3"),
        ("left-handed-hand.cfg", "left-handed"),
        ("my-handles.cfg", "my-handles"),
    ],
)
def test_stem_is_the_name_without_hand(cfg, stem):
    assert loading.stem(cfg) == stem


@pytest.mark.parametrize(
    "cfg, name, times",
    [
        ("config/yolov3-hand.cfg", "yolov3-hand", 0),
        ("config/prune_yolov3-hand.cfg", "yolov3-hand", 1),
        ("config/prune2_yolov3-hand.cfg", "yolov3-hand", 2),
        ("pruned/yolov3-pruned.cfg", "yolov3", 1),
        ("pruned/yolov3-pruned3.cfg", "yolov3", 3),
    ],
)
def test_pruned_names_count(cfg, name, times):
    assert loading.pruned_name(cfg) == (name, times)


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/**/*.py")), ids=lambda path: path.name)
def test_no_test_takes_a_fixed_port(path):
    """A port that another run holds aborts the process group: torchrun --standalone, or port 0, takes a free one."""
    numbers = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [text for text in numbers if re.match(r"--(master|rdzv)[-_]\w+=.*[1-9]", text)], path
