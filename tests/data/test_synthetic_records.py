"""Raw rows of generated data."""

import numpy as np

from fusion_lab.data.synthetic import SyntheticConfig, load
from fusion_lab.data.synthetic_records import records


def test_rows_are_those_of_the_data_set_with_labels_or_without():
    config = SyntheticConfig(rows=20)
    dataset = load(config)
    for labelled in (True, False):
        raw = records(config, labelled, dataset.spec)
        assert raw.ids.tolist() == dataset.ids.tolist()
        for name, modality in raw.modalities.items():
            values = modality.table.frame.to_numpy()
            np.testing.assert_array_equal(values, dataset.inputs[name].numpy()[dataset.valid[name].numpy()])
