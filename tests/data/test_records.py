"""Raw rows of a data set in memory: encoding them gives the data set back."""

import numpy as np
import pytest

from fusion_lab.config import validate
from fusion_lab.data.raw import encode
from fusion_lab.data.records import records_of
from fusion_lab.data.synthetic import SyntheticConfig, load

TREE = {
    "rows": 50,
    "missing_modalities": 0.3,
    "missing_cells": 0.1,
    "modalities": {
        "clinic": {"width": 6},
        "gait": {"kind": "sequence", "width": 6, "length": 5},
        "cells": {"kind": "bag", "width": 6, "length": 4},
    },
}


@pytest.mark.parametrize("planted", ["interaction", "quality"])
def test_encoding_gives_the_data_set_back(planted):
    config = validate(SyntheticConfig, {**TREE, "planted": planted}, "test")
    dataset = load(config)
    raw = records_of(dataset)
    assert raw.ids.tolist() == dataset.ids.tolist()
    for modality in dataset.spec.modalities:
        made = encode(modality, raw.modalities[modality.name])
        for part in ("inputs", "valid", "observed", "quality"):
            np.testing.assert_array_equal(getattr(made, part), getattr(dataset, part)[modality.name])


def test_a_missing_cell_is_told_with_its_row_and_position():
    dataset = load(validate(SyntheticConfig, TREE, "test"))
    raw = records_of(dataset).modalities["gait"]
    line = int(np.argmax(raw.table.frame.isna().to_numpy().any(axis=1)))
    assert raw.table.place(line, "gait 0") == (
        f"modality 'gait': row {dataset.ids[raw.row[line]]}, position {raw.position[line] + 1}, column 'gait 0'"
    )
