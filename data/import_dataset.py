"""Import a data set of another format: images, YOLO labels, lists, a report and a picture of it.

    python data/import_dataset.py ~/coco --out data/coco --classes person
    python data/import_dataset.py ~/egohands_data --out data/egohands --single-class hand

Formats, told by what SOURCE holds: COCO JSON, Pascal VOC XML (labelImg), YOLO folders (Darknet, ultralytics, Roboflow),
LabelMe JSON, CSV (TensorFlow, RetinaNet, Open Images), EgoHands. Started again after an interruption, it goes on.
See docs/data.md.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import cli  # noqa: E402
from utils.data import classes, formats, labels, split  # noqa: E402
from utils.data.annotations import FLAGS, Annotations, Faults  # noqa: E402
from utils.data.contact_sheet import write_contact_sheet  # noqa: E402
from utils.data.file_names import unique_names  # noqa: E402
from utils.data.new_set import NewSet  # noqa: E402
from utils.data.pictures import Journal  # noqa: E402
from utils.data.source import Source  # noqa: E402
from utils.data.yolo_labels import DataError  # noqa: E402
from utils.output import write_json, write_text  # noqa: E402


def renaming(text: str) -> dict[str, str]:
    """argparse type: old=new, several with commas between them."""
    pairs = [[word.strip() for word in pair.rpartition("=")[::2]] for pair in cli.class_names(text)]
    if not all(old and new for old, new in pairs):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected OLD=NEW")
    return dict(pairs)


def flag_names(text: str) -> set[str]:
    """argparse type: flags with commas between them, or none."""
    names = set(cli.class_names(text)) - {"none"}
    unknown = ", ".join(sorted(names - set(FLAGS)))
    if unknown:
        raise argparse.ArgumentTypeError(f"found {unknown}, expected none or of {', '.join(FLAGS)}")
    return names


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked and typed."""
    p = cli.Parser(description=__doc__)
    p.add_argument("source", type=Path, metavar="SOURCE", help="folder or annotation file to import")
    p.add_argument("--out", type=cli.out_folder, required=True, metavar="DIR", help="folder to write to")
    p.add_argument("--name", metavar="NAME", help="name of the .data, .yaml and .names files (default: the folder's)")
    add_source_flags(p.add_argument_group("source"))
    add_box_flags(p.add_argument_group("boxes"))
    add_split_flags(p.add_argument_group("split"))
    how = p.add_argument_group("pictures").add_mutually_exclusive_group()
    how.add_argument("--link", dest="how", action="store_const", const="link", default="link",
                     help="hard-link pictures, copy where that is not possible (the default)")
    how.add_argument("--copy", dest="how", action="store_const", const="copy", help="copy pictures")
    how.add_argument("--symlink", dest="how", action="store_const", const="symlink", help="link to pictures by path")
    args = p.parse_args(argv)
    args.typed = p.typed(argv)
    return args


def add_source_flags(group: argparse._ArgumentGroup) -> None:
    """How the source is read."""
    group.add_argument("--format", choices=formats.FORMATS, help="format (default: told by the source's content)")
    group.add_argument("--images", type=Path, metavar="DIR", help="folder of the pictures, if annotations do not tell")
    group.add_argument("--background", action=argparse.BooleanOptionalAction, default=None,
                       help="pictures without an annotation show no object, else are left out (default: those of "
                       "YOLO's folders and of COCO's list do)")
    group.add_argument("--exif", choices=("auto", "shown", "stored"), default="auto",
                       help="frame of boxes where EXIF turns a picture; auto: as the annotated size tells, else shown")
    group.add_argument("--skip-bad", action="store_true", help="leave out and count pictures at fault, do not stop")


def add_box_flags(group: argparse._ArgumentGroup) -> None:
    """Which boxes are kept, under which names: renamed, then chosen, then merged."""
    group.add_argument("--map", type=renaming, action="append", default=[], metavar="OLD=NEW",
                       help="rename a class; several of one new name become one (default: none)")
    group.add_argument("--classes", type=cli.class_names, metavar="A,B",
                       help="keep these, in this order; a comma within a name is written \\, (default: all)")
    group.add_argument("--single-class", metavar="NAME", help="all classes that are left become this one")
    group.add_argument("--drop", type=flag_names, default="crowd,difficult", metavar="FLAGS",
                       help=f"leave out boxes that the source flags so: of {', '.join(FLAGS)}, or none")
    group.add_argument("--drop-empty", action="store_true", help="leave out pictures without a box")


def add_split_flags(group: argparse._ArgumentGroup) -> None:
    """Which pictures are for validation."""
    group.add_argument("--valid", type=cli.fraction, default=0.2, metavar="SHARE",
                       help="of all pictures, for validation")
    group.add_argument("--split-by", choices=("film", "folder", "none"), default="film",
                       help="what stays on one side; film: a folder's names but for a trailing number, or a game")
    group.add_argument("--seed", type=cli.seed, default=0, metavar="N", help="of the split (default: 0)")
    group.add_argument("--resplit", action="store_true", help="split anew, whatever split the source has")
    for part, words in (("valid", "for validation"), ("test", "for neither training nor validation")):
        group.add_argument(f"--{part}-groups", type=cli.class_names, default=(), metavar="A,B",
                           help=f"films, folders or games {words}; others train (default: none)")


def choose_boxes(annotations: Annotations, args: argparse.Namespace, faults: Faults,
                 counts: Counter) -> tuple[Counter, Counter]:
    """Classes renamed, chosen and merged; flagged boxes left out. Returns the boxes left out by flag and by class.
    Raises DataError where a picture is there with other boxes again, if such are not skipped."""
    counts["listed twice"] = classes.join_repeated(annotations, faults)
    dropped = classes.drop_flagged(annotations, args.drop)
    classes.rename(annotations, {old: new for pairs in args.map for old, new in pairs.items()})
    left_out = classes.choose(annotations, args.classes) if args.classes else Counter()
    if args.single_class:
        classes.rename(annotations, {name: args.single_class for name in annotations.names})
    return dropped, left_out


def fit_boxes(annotations: Annotations, journal: Journal, args: argparse.Namespace, faults: Faults,
              counts: Counter) -> list[labels.Entry]:
    """Measure the pictures and bring the boxes to fractions of them. Raises DataError on a fault, if not skipped."""
    pictures = journal.measure([sample.image for sample in annotations.samples], faults.add)
    entries = []
    for sample in annotations.samples:
        if sample.image in pictures:
            try:
                entries.append(labels.fit(sample, pictures[sample.image], args.exif, counts))
            except DataError as error:
                faults.add(error)
    faults.stop()
    if args.drop_empty:
        counts["dropped empty"] = sum(not entry.rows for entry in entries)
        entries = [entry for entry in entries if entry.rows]
    if not any(entry.rows for entry in entries):
        raise DataError(f"{args.source}: found no box in {len(annotations.samples):,} pictures, expected at least one")
    return entries


def split_entries(entries: list[labels.Entry], args: argparse.Namespace) -> str:
    """Give each entry its part. Returns how, in words."""
    samples = [entry.sample for entry in entries]
    named = {"valid": args.valid_groups, "test": args.test_groups}
    parts, how = None if args.resplit else split.source_parts(samples), "as in the source"
    if any(named.values()):
        parts, how = split.named_parts(samples, args.split_by, named)
    elif parts is None:
        parts, how = split.split_parts(samples, args.split_by, args.valid, args.seed)
    elif idle := [args.typed[name] for name in ("valid", "split_by") if name in args.typed]:
        print(f"warning: {' and '.join(idle)}: found a split in the source, which is kept; --resplit splits anew")
    for entry, part in zip(entries, parts):
        entry.part = part
    return how


def main(argv: list[str] | None = None) -> None:
    """Read, choose, measure, split, write, report."""
    args = parse_args(argv)
    new, faults, counts = NewSet(args.out, args.name, args.source), Faults(args.skip_bad), Counter()
    source = Source(args.source, faults, args.images, args.background, leave_out=args.out)
    name = args.format or formats.detect(source)
    annotations = formats.read(name, source)
    dropped, left_out = choose_boxes(annotations, args, faults, counts)
    entries = fit_boxes(annotations, Journal(new.journal), args, faults, counts)
    for entry, file_name in zip(entries, unique_names([entry.sample.image for entry in entries])):
        entry.name = file_name
    about = {"folder": args.out, "name": new.name, "source": args.source, "format": name, "dropped": dropped,
             "left_out": left_out, "split": split_entries(entries, args)}
    counts["bad"] = faults.count
    new.write_pictures(entries, annotations.names, args.how)
    from utils.data import report  # not above: the anchors that it suggests need torch, which takes seconds to load

    found = report.collect(annotations, entries, counts, about)
    write_json(args.out / "report.json", found)
    write_text(args.out / "report.md", report.as_markdown(found))
    write_contact_sheet(args.out / "contact_sheet.jpg", entries, args.out / "images", annotations.names, args.seed)
    new.finish(entries, annotations.names)
    print(report.as_text(found))


if __name__ == "__main__":
    cli.run(main)
