"""A net and the data that it is scored on."""

import re
import runpy

import pytest

from conftest import ROOT, without_labels
from models import Darknet
from utils.data.datasets import DataError


def test_a_score_of_images_without_labels_is_an_error(tiny_cfg, tiny_data, tmp_path, monkeypatch):
    place = without_labels(tiny_data, "valid")
    Darknet(tiny_cfg).save_darknet_weights(tmp_path / "w.weights")
    monkeypatch.setattr(
        "sys.argv",
        [
            "test.py",
            "--cfg",
            str(tiny_cfg),
            "--data",
            str(tiny_data),
            "--weights",
            str(tmp_path / "w.weights"),
            "--n_cpu",
            "0",
        ],
    )
    with pytest.raises(DataError, match=re.escape(str(place))):
        runpy.run_path(str(ROOT / "test.py"))["main"]()
