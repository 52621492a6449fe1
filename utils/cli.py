"""What the scripts' command lines share: flags under all their names, value types, and errors as one line."""

import argparse
import dataclasses
import difflib
import math
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Callable, Iterable, Mapping, NamedTuple, NoReturn

from utils import limits, signals, torchrun
from utils.places import require_file, require_folder
from utils.text import shown

ROOT = Path(__file__).resolve().parent.parent
TO_RUN = (
    "checkpoint (.pth), Darknet .weights, or a file of export.py (.onnx, .xml, .param, .torchscript, .tflite; --cfg is "
    "not read)"
)
CONF_THRES = 0.3  # of what is shown: the published nets have precision 0.9 from 0.23 to 0.26 on
NMS_HELP = "of two boxes of one class whose IoU is higher, the one with the lower score is dropped"
DEFAULT_DATA = "config/oxfordhand.data"
MOST_MESSAGE = 1200  # characters
REPORT = ("this is a fault of the program; please report it with the lines above, the command, and what "
          "`python -m utils.doctor` prints")
NO_MEMORY = ("found too little memory for this net and these pictures; a smaller --batch_size or --img_size, or fewer "
             "--n_cpu, take less (`python -m utils.doctor --cfg CFG --batch N` says how much)")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """--help with the defaults that the parser really has, and the examples of the description as they are."""

    def _get_help_string(self, action: argparse.Action) -> str:
        switch = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        said = switch or "default" in action.help or action.default in (None, False, "", ())
        return action.help if said else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A script's command line: - and _ are alike in the names of flags, and a mistake is one line."""

    def __init__(self, **options):
        alike = "- and _ are alike in the names of flags: --img-size is --img_size"
        super().__init__(**{"formatter_class": HelpFormatter, "epilog": alike} | options)

    def parse_known_args(self, args=None, namespace=None):
        """argparse's, of flags in either spelling."""
        return super().parse_known_args(self.spelled(sys.argv[1:] if args is None else args), namespace)

    def typed(self, words: Iterable[str] | None = None) -> dict[str, str]:
        """{name of an argument: its flag as it was typed} of a command line; what was left at its default is not among
        them, nor is what has no flag."""
        words, left_out = self.spelled(sys.argv[1:] if words is None else words), object()
        defaults = {action.dest: left_out for action in self._actions}
        gathered = {action.dest: [] for action in self._actions if action.default == []}  # action="append" adds to it
        given = vars(self.parse_args(words, argparse.Namespace(**defaults | gathered)))
        heads = [word.partition("=")[0] for word in words]
        return {action.dest: next((head for head in heads if head in action.option_strings), action.option_strings[-1])
                for action in self._actions if action.option_strings and given.get(action.dest, left_out) not in
                (left_out, [])}

    def require_partner(self, typed: Mapping[str, str], names: Iterable[str], partner: str, there: bool) -> None:
        """End with a line where flags of the arguments `names` were typed and say nothing, because `partner`, which
        they belong to, is not `there`. typed: see `typed`."""
        if not there and (found := [typed[name] for name in names if name in typed]):
            self.error(f"found {' and '.join(found)} without {partner}, expected both or neither: without it "
                       f"{'it says' if len(found) == 1 else 'they say'} nothing")

    def refuse_beside(self, typed: Mapping[str, str], names: Iterable[str], other: str, why: str) -> None:
        """End with a line where flags of the arguments `names` were typed beside the flag `other`, which leaves them
        nothing to say or says the opposite. typed: see `typed`; why: in words."""
        if found := [typed[name] for name in names if name in typed]:
            self.error(f"found {' and '.join(found)} beside {other}, expected one or the other: {why}")

    def no_longer_taken(self, values: Mapping) -> dict[str, tuple[str, str]]:
        """{flag: (name, what is expected)} of those `values`, by the names of arguments as an earlier program was given
        them, that this command line would not take."""
        found = {}
        for action in self._actions:
            value = values.get(action.dest)
            if value is not None and value != action.default and not _takes(action, value):
                flag = next(name for name in reversed(action.option_strings) if name.startswith("--"))
                found[flag] = action.dest, " or ".join(map(str, action.choices or ["another value"]))
        return found

    def spelled(self, words: Iterable[str]) -> list[str]:
        """Command-line words with the flags as they were declared: --img-size=3 -> --img_size=3; nothing after a -- is
        a flag."""
        words = list(words)
        end = words.index("--") if "--" in words else len(words)
        declared = {name.replace("_", "-"): name for name in self._option_string_actions if name.startswith("--")}
        parts = [word.partition("=") for word in words[:end]]
        return [declared.get(name.replace("_", "-"), name) + equals + value for name, equals, value in parts] + words[
            end:
        ]

    def error(self, message: str) -> NoReturn:
        """One line, with the flag that was probably meant, and exit status 2."""
        if message.startswith("unrecognized arguments: -"):
            word = message.split()[2].partition("=")[0]
            near = difflib.get_close_matches(self.spelled([word])[0], self._option_string_actions, n=1, cutoff=0.7)
            message += f"; did you mean {near[0]}?" if near else ""
        torchrun.print_error(f"{self.prog}: {message} (--help lists all flags)")
        self.exit(2)


def _takes(action: argparse.Action, value) -> bool:
    """Whether a flag takes a parsed value; of lists and of what has no type nobody can say."""
    if action.choices is not None:
        return value in action.choices
    if action.nargs == 0:
        return isinstance(value, bool)
    if action.type is None or not isinstance(value, (str, int, float)):
        return True
    try:
        action.type(str(value))
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return True


def options_of(kind: type, args: argparse.Namespace):
    """The dataclass `kind`, each field taken from the argument of its name; one that there is no flag for keeps its
    default."""
    given = vars(args)
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given})


def whole(least: int, most: int) -> Callable[[str], int]:
    """Makes an argparse type: a whole number from `least` to `most`."""
    def parse(text: str) -> int:
        digits = re.fullmatch(r"[+-]?[0-9]{1,20}", text.strip())  # int() takes 1_0 and the digits of all scripts
        value = int(text) if digits else None
        if value is None:
            raise argparse.ArgumentTypeError(f"found {shown(text)}, expected a whole number of {least} or more")
        if not least <= value <= most:
            bound = f"{least} or more" if value < least else f"at most {most:,}"
            raise argparse.ArgumentTypeError(f"found {text}, expected {bound}")
        return value
    return parse


def number(expected: str, is_right: Callable[[float], bool]) -> Callable[[str], float]:
    """Makes an argparse type: a finite number for which `is_right`; `expected` says in words which those are."""
    def parse(text: str) -> float:
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and is_right(value)):
            raise argparse.ArgumentTypeError(f"found {shown(text)}, expected {expected}")
        return value
    return parse


positive_int = whole(1, 1_000_000_000)
count = whole(0, 1_000_000_000)
pixels = whole(1, limits.MOST_SIDE_PX)
seed = whole(0, limits.MOST_SEED)
threads = whole(0, limits.MOST_THREADS)
processes = whole(0, limits.MOST_PROCESSES)
classes = whole(1, limits.MOST_CLASSES)
epochs = whole(1, limits.MOST_EPOCHS)
layers = whole(0, limits.MOST_LAYERS)
positive_float = number("a number over 0, at most 1e9", lambda value: 0 < value <= 1e9)
amount = number("a number of 0 or more, at most 1e9", lambda value: 0 <= value <= 1e9)
strength = number("a number over 0, at most 100", lambda value: 0 < value <= 100)  # a learning rate, -sr's s
ratio = number("a ratio from 0 to 1", lambda value: 0 <= value <= 1)
overlap = number("an IoU over 0, at most 1", lambda value: 0 < value <= 1)
fraction = number("a number from 0 to below 1, such as 0.85", lambda value: 0 <= value < 1)  # --percent's range is
# that of the method's published description
width_multiplier = number("a factor in (0, 4]", lambda value: 0 < value <= 4)


def rescaling(text: str) -> str | float:
    """argparse type: none, auto, or a factor over 0."""
    return text if text in ("none", "auto") else positive_float(text)


def class_names(text: str) -> tuple[str, ...]:
    """argparse type: names of classes, divided by commas; one within a name is written \\,."""
    names = tuple(name.replace("\\,", ",").strip() for name in re.split(r"(?<!\\),", text))
    if not all(names):
        raise argparse.ArgumentTypeError(f"found {shown(text)}, expected names divided by commas: person,car")
    return tuple(dict.fromkeys(names))


def joined_class_names(names: Iterable[str]) -> str:
    """What `class_names` takes for these names."""
    return ",".join(name.replace(",", "\\,") for name in names)


def run_name(text: str) -> str:
    """argparse type: a folder below logs/, as RUN or GROUP/RUN."""
    parts = text.split("/")
    if not all(re.fullmatch(r"[^.\\:*?\"<>|\x00-\x1f][^\\:*?\"<>|\x00-\x1f]{0,199}", part) for part in parts):
        raise argparse.ArgumentTypeError(f"found {shown(text)}, expected a name for a folder, or GROUP/NAME; none that "
                                         "begins with a dot")
    return text


def out_file(text: str) -> Path:
    """argparse type: a file to write. Found now, not after hours of work, that it cannot be."""
    return _place(text, require_file)


def out_folder(text: str) -> Path:
    """argparse type: a folder to write to."""
    return _place(text, require_folder)


def _place(text: str, check: Callable[[Path], None]) -> Path:
    try:
        check(Path(text))
    except OSError as error:  # a name that is too long as well
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


class Target(NamedTuple):
    """A size to reach: a ratio of the dense net's, or an absolute value."""

    value: float
    is_ratio: bool

    def of(self, dense: float) -> float:
        """The absolute value, given the dense net's."""
        return self.value * dense if self.is_ratio else self.value

    @property
    def text(self) -> str:
        """As size_target reads it, to a billionth."""
        return f"{self.value:.9f}".rstrip("0").rstrip(".")


def size_target(text: str) -> Target:
    """argparse type: a ratio (0.2) or a count (350K, 1.2M, 2.5G, 1200000), in capitals or not."""
    return _target(text, {"k": 1e3, "m": 1e6, "g": 1e9, "": 1}, 1000, "a ratio (0.2) or a count (1.2M, 0.8G)")


def time_target(text: str) -> Target:
    """argparse type: a ratio (0.5) or a time (12ms, 0.05s)."""
    return _target(text, {"ms": 1e-3, "s": 1}, math.inf, "a ratio (0.5) or a time (12ms)")


def _target(text: str, units: dict[str, float], least: float, expected: str) -> Target:
    """A ratio up to 1, or a number in one of `units`; one without a unit is a count from `least` on."""
    match = re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", text.strip())
    try:
        value, unit = float(match[1]), match[2].lower()
    except (TypeError, ValueError):
        value, unit = 0.0, None
    ratio = unit == "" and value <= 1
    if not 0 < value < 1e15 or unit not in ("", *units) or (unit == "" and 1 < value < least):
        raise argparse.ArgumentTypeError(f"found {text}, expected {expected}")
    return Target(value if ratio else value * units[unit], ratio)


def add_model_flags(parser: argparse.ArgumentParser, cfg: str, weights: str | None, weights_help: str,
                    kinds: str = "checkpoint (.pth) or Darknet .weights") -> None:
    """--model_def = --cfg and -pre = --pretrained_weights = --weights_path = --weights."""
    parser.add_argument("--model_def", "--cfg", dest="cfg", default=cfg, metavar="CFG",
                        help="Darknet cfg of the network")
    parser.add_argument("-pre", "--pretrained_weights", "--weights_path", "--weights", dest="weights", default=weights,
                        metavar="FILE", help=f"{kinds}: {weights_help}")


def add_data_flags(parser: argparse.ArgumentParser, trained: bool = False) -> None:
    """--data_config = --data, --class_path, and how images are read.

    trained: --data is by default what the weights were trained on.
    """
    words = ".data or .yaml file that names the image lists and classes"
    default = f" (default: what the checkpoint was trained on, else {DEFAULT_DATA})"
    parser.add_argument("--data_config", "--data", dest="data", default=None if trained else DEFAULT_DATA,
                        metavar="FILE", help=words + default * trained)
    parser.add_argument("--class_path", metavar="FILE",
                        help="file of class names, one per line; replaces those of --data")
    parser.add_argument("--skip-bad", action="store_true",
                        help="skip and count unreadable images and labels instead of stopping")
    parser.add_argument("--cache-gb", type=amount, default=0.5, metavar="GB",
                        help="memory for decoded images, per loader process")


def add_keep_classes_flag(parser: argparse.ArgumentParser, words: str) -> None:
    """--keep-classes."""
    parser.add_argument("--keep-classes", type=class_names, default=(), metavar="NAMES",
                        help=f"{words}; a comma within a name is written \\,")


def add_run_flags(parser: argparse.ArgumentParser, batch_size: int) -> None:
    """--img_size, --batch_size, --n_cpu, --device, --threads."""
    parser.add_argument("--img_size", type=pixels, metavar="PX",
                        help="square input size (default: that of a checkpoint's training, or the cfg's)")
    parser.add_argument("--batch_size", type=whole(1, limits.MOST_BATCH), default=batch_size, metavar="N",
                        help="images per batch")
    parser.add_argument("--n_cpu", type=processes, default=4, metavar="N",
                        help="processes that load images, at most")
    add_device_flags(parser)


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """--device, --threads."""
    parser.add_argument("--device", default="", metavar="NAME",
                        help="cpu, cuda, cuda:1 or 1 (default: cuda if there is one, else cpu)")
    add_threads_flag(parser)


def add_threads_flag(parser: argparse.ArgumentParser) -> None:
    """--threads."""
    parser.add_argument("--threads", type=threads, default=0, metavar="N",
                        help="CPU threads of torch; 0: as torch chooses")


def add_score_flags(parser: argparse.ArgumentParser) -> None:
    """--conf_thres, --nms_thres, --iou_thres, --scorer."""
    parser.add_argument("--conf_thres", type=ratio, default=0.01, help="predictions of a lower objectness are dropped")
    parser.add_argument("--nms_thres", type=ratio, default=0.5, help=NMS_HELP)
    parser.add_argument("--iou_thres", type=overlap, default=0.5,
                        help="a detection counts as right from this IoU with a labelled box")
    parser.add_argument("--scorer", choices=("standard", "compat", "reference"), default="standard",
                        help="standard: COCO-style matching, all-point AP; reference: what the reference "
                        "implementation (Lam1360/YOLOv3-model-pruning) prints for these weights and images, by its "
                        "rules "
                        "on its input, which is padded with black and resized by nearest neighbour; compat: its rules "
                        "on the letterboxed images of training and detection, which is not the number that it prints")


def add_backend_flag(parser: argparse.ArgumentParser) -> None:
    """--backend."""
    parser.add_argument(
        "--backend",
        choices=("auto", "torch", "compile", "onnxruntime", "openvino", "openvino-bf16"),
        default="auto",
        help="what runs the network; auto: on a CPU an int8 file that export.py made of these very weights (beside "
        "them or in output/), where the processor has instructions for it; bfloat16, where it has those, "
        "test.py scored it as no worse and it is the faster; else openvino or onnxruntime, if it is installed "
        "and there are enough images to make up for the seconds that its start takes; otherwise torch; "
        "an exported file is run by its own runtime (.onnx: by openvino or onnxruntime); openvino-bf16 computes "
        "in bfloat16: score it before use",
    )


def run(main: Callable[[], int | None], several_processes: bool = False) -> None:
    """Call a script's main and end the process with the status that it returns: wrong input is one line on stderr and
    status 2. Any other exception is a fault of the program: its traceback, how to report it, and status 1.
    several_processes: whether main can share its work among the processes that torchrun starts."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console may lack the letters of a name: no reason to end
            stream.reconfigure(errors="backslashreplace")
    try:
        if torchrun.world_size() > 1 and not several_processes:
            raise ValueError(f"found {torchrun.world_size()} processes (WORLD_SIZE, which torchrun sets), expected "
                             "one: only train.py and test.py share their work, start this by python")
        with torchrun.first_process_prints(), signals.raised():
            status = main()
    except KeyboardInterrupt as error:
        torchrun.print_error(str(error) or "stopped")
        sys.exit(signals.exit_status(error))
    except Exception as error:
        _end_after(error)
    else:
        if status:
            sys.exit(status)


def _end_after(error: Exception) -> NoReturn:
    """Say what went wrong, and end the process."""
    script = Path(sys.argv[0]).name
    if (message := input_fault(error)) is not None:
        torchrun.print_error(f"{script}: {' '.join(message.split())}")
        if os.environ.get("DEBUG"):
            raise error
        sys.exit(2)
    if torchrun.world_size() > 1 and isinstance(error, RuntimeError) and (
            torchrun.says_that_a_process_is_gone(error)):
        torchrun.print_loss(script, error)
        sys.stdout.flush()
        os._exit(1)  # no more waiting for the others, nor for their connections
    traceback.print_exception(error)
    print(f"{script}: {REPORT}", file=sys.stderr)
    sys.exit(1)


def input_fault(error: Exception) -> str | None:
    """What is wrong with the input, in the words of an error that readers raise, or of one about memory; None where
    `error` is a fault of the program."""
    text = str(error)
    name, _, worker = text.strip().rpartition("\n")[2].partition(": ") if "Original Traceback" in text else ("", "", "")
    kind = name.rpartition(".")[2] or type(error).__name__
    if "DataLoader worker" in text and not worker:  # the system ended it, for want of memory as a rule
        return NO_MEMORY
    if kind in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in text or "out of memory" in text:
        return NO_MEMORY
    if isinstance(error, ModuleNotFoundError) and error.name and not (ROOT / error.name.partition(".")[0]).exists():
        return f"the package {error.name} is not installed: python -m pip install -r {ROOT / 'requirements.txt'}"
    message = worker or text
    if len(message) > MOST_MESSAGE:  # a damaged file may hold a line without end
        message = f"{message[:MOST_MESSAGE // 2]} ... {message[-MOST_MESSAGE // 4:]}"
    return message if isinstance(error, (ValueError, OSError)) else None
