"""EgoHands (Bambach et al., ICCV 2015): 48 videos of two players, hands as polygons in MATLAB files.

metadata.mat holds `video`: video_id and labelled_frames (frame_num and a polygon for each hand). Each folder of
_LABELLED_SAMPLES holds frame_NNNN.jpg and polygons.mat: `polygons`, a struct a frame in the order of the frames.
"""

import re
from pathlib import Path

import numpy as np

from utils.data.annotations import Annotations, Box, Sample
from utils.data.matlab import MatError, read_mat
from utils.data.source import Source
from utils.data.yolo_labels import DataError

HANDS = ("myleft", "myright", "yourleft", "yourright")


def found(source: Source) -> list[Path]:
    """polygons.mat of the videos."""
    if source.path.is_file():
        return []
    return [path for path in source.files if path.name == "polygons.mat"]


def read(source: Source) -> Annotations:
    """All videos; a sample's group is its game, which both players' glasses filmed."""
    samples = []
    frame_numbers = _frame_numbers(source)
    for path in found(source):
        try:
            samples += _video(path, frame_numbers.get(path.parent.name), source)
        except (DataError, MatError) as error:
            source.faults.add(error)
    return Annotations(list(HANDS), samples)


def game(video: str) -> str:
    """CARDS_COURTYARD_T_B -> CARDS_COURTYARD_B_T: the same game, seen by the other player."""
    *place, viewer, partner = video.split("_") if video.count("_") > 1 else (video, "", "")
    return "_".join([*place, *sorted((viewer, partner))]).strip("_")


def _frame_numbers(source: Source) -> dict[str, list[int]]:
    """Video -> numbers of its labelled frames, from metadata.mat; empty without it."""
    path = next((path for path in source.files if path.name == "metadata.mat"), None)
    if path is None:
        return {}
    videos = read_mat(path).get("video")
    try:
        return {str(video["video_id"]): [int(frame["frame_num"]) for frame in _as_list(video["labelled_frames"])]
                for video in _as_list(videos)}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: found no {error}, expected video with video_id and labelled_frames") from None


def _as_list(value) -> list:
    """The structs of a struct array, of which one alone comes as itself."""
    return [value] if isinstance(value, dict) else list(value)


def _video(path: Path, labelled: list[int] | None, source: Source) -> list[Sample]:
    polygons = read_mat(path).get("polygons")
    if polygons is None or not all(isinstance(frame, dict) for frame in _as_list(polygons)):
        raise DataError(f"{path}: found no struct array called polygons, expected one struct a frame")
    polygons = _as_list(polygons)
    found_frames = ((re.fullmatch(r"frame_(\d+)\.jpe?g", item.name.lower()), item) for item in path.parent.iterdir())
    frames = {int(match[1]): item for match, item in found_frames if match}
    order = labelled or sorted(frames)
    if len(order) != len(polygons):
        raise DataError(f"{path}: found polygons of {len(polygons)} frames and {len(order)} frames, expected as many")
    samples = []
    for k, (number, hands) in enumerate(zip(order, polygons), start=1):
        place = f"{path}: polygons({k})"
        if number not in frames:
            source.faults.add(f"{place}: found no frame_{number:04d}.jpg, expected it beside")
            continue
        try:
            boxes = [box for name in HANDS if (box := _box(name, hands.get(name), f"{place}.{name}"))]
            samples.append(Sample(frames[number], boxes, place, group=game(path.parent.name)))
        except DataError as error:
            source.faults.add(error)
    return samples


def _box(name: str, polygon, place: str) -> Box | None:
    """Box around a hand's points (N, 2), x first; None where there is no hand."""
    if polygon is None or np.size(polygon) == 0:
        return None
    try:
        points = np.asarray(polygon, dtype=float).reshape(-1, 2)
    except (TypeError, ValueError):
        points = np.full((1, 2), np.nan)
    if not np.isfinite(points).all():
        raise DataError(f"{place}: found an array of shape {np.shape(polygon)}, expected points x, y")
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return Box(name, x1, y1, x2, y2, ("polygon",))
