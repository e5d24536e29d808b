"""What `train` says of its tables."""

from jobs_stage import TINY

from fusion_lab.experiment import override, resolve
from fusion_lab.jobs.train import title


def test_folds_that_keep_their_last_epoch_were_not_stopped_by_validation_rows():
    best, last = (
        resolve(override({"name": "tiny", **TINY}, {"training.restore": which}), "tiny") for which in ("best", "last")
    )
    assert "folds were stopped" in title("val", best)
    assert "stopped" not in title("val", last)
    assert title("test", best) == title("test", last)
