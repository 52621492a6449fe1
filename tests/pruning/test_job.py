"""What a pruning asks of its data before it begins."""

import re

import pytest

from conftest import without_labels
from utils.data.datasets import DataError
from utils.pruning import job as job_module


@pytest.mark.parametrize("flags", ["", "--max-drop 0.01", "--curve 2", "--sensitivity 2", "--target-params 0.5"])
def test_a_pruning_that_scores_stops_without_validation_labels_and_says_where_they_were_looked_for(
    job_of, tiny_data, flags
):
    place = without_labels(tiny_data, "valid")
    with pytest.raises(DataError, match=re.escape(str(place))) as error:
        job_of(flags)
    assert ("--no-eval prunes without a score" in str(error.value)) == (flags in ("", "--target-params 0.5"))


def test_sensitivity_on_images_without_a_box_says_how_many_reach_one(job_of, tiny_data):
    labels = tiny_data.parent / "pictures" / "labels"
    for i in range(3):
        (labels / f"{i}.txt").unlink()
    with pytest.raises(job_module.PruneError, match="the first lies in image 4"):
        job_of("--sensitivity 3")
    assert job_of("--sensitivity 4").loader
