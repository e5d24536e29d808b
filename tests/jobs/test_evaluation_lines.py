"""What the terminal says of an evaluation, word by word."""

import numpy as np
import pytest

from fusion_lab.contracts import Spec, Task
from fusion_lab.evaluation.labelled import Told
from fusion_lab.evaluation.subsets import SubsetScores, choose_subsets, worth
from fusion_lab.jobs import evaluation_lines as lines
from fusion_lab.report.subsets import subsets_dict

SPEC = Spec(
    (),
    (
        Task("event", "binary", ("no", "yes")),
        Task("grade", "multiclass", ("a", "b", "c")),
        Task("dose", "regression"),
    ),
)
NAMES = ("hand", "chest", "ankle")


def subsets(empty: int, most: int = 7):
    scores = {
        "event": {"accuracy": Told(0.75, 0.7), "f1": Told(0.5, np.nan)},
        "grade": {"accuracy": Told(0.5, 0.4), "f1": Told(0.25, np.nan)},
        "dose": {"r2": Told(0.125, 0.1), "mae": Told(2.0, 1.0)},
    }
    chosen = choose_subsets(NAMES, most, np.random.default_rng(0))
    scored = [SubsetScores(subset, scores, empty) for subset in chosen.chosen]
    return subsets_dict(scored, worth(scored, NAMES), NAMES, chosen.note)


def test_subsets_are_told_by_the_scores_of_all_folds_rows_under_their_own_names():
    told = lines.subset_lines(subsets(0), SPEC)
    heads = [line for line in told if not line.startswith(" ")]
    assert [head.split(", ")[-1] for head in heads] == ["event: 7 subsets", "grade: 7 subsets", "dose: 7 subsets"]
    assert all("all folds' test rows together" in head for head in heads)
    whole = [line for line in told if line.startswith("  all modalities")]
    assert [line.split("  ", 2)[2].strip() for line in whole] == [
        "accuracy 0.750  F1 0.500",
        "accuracy 0.500  macro F1 0.250",
        "R2 0.125  MAE 2.000",
    ]


@pytest.mark.parametrize(
    ("empty", "said"), [(0, ""), (1, "(1 row without any of it)"), (3, "(3 rows without any of it)")]
)
def test_rows_without_any_of_a_subset_are_counted_in_words(empty, said):
    line = next(line for line in lines.subset_lines(subsets(empty), SPEC) if "hand alone" in line)
    assert line.endswith(said) if said else "without" not in line


@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_what_was_left_out_of_the_subsets_is_said_and_no_more(most):
    head = lines.subset_lines(subsets(0, most), SPEC)[0]
    assert f"the first {most} of 7 subsets: the whole, single modalities" in head


def test_recordings_are_counted_by_those_that_have_a_label():
    scores = {"accuracy": 0.5, "f1": 0.25, "recordings": 4}
    found = {
        "event": {**scores, "with_differing_labels": ["r1"]},
        "grade": {**scores, "with_differing_labels": ["r1", "r2"]},
        "dose": {"r2": np.nan, "recordings": 0, "with_differing_labels": []},
    }
    assert lines.recording_lines(found, 90, SPEC) == [
        "whole recordings, event (4 with a label; 90 test rows): accuracy 0.500, F1 0.250",
        "note: 1 recording holds different labels of event: no label as a whole, and no part in these scores",
        "whole recordings, grade (4 with a label; 90 test rows): accuracy 0.500, macro F1 0.250",
        "note: 2 recordings hold different labels of grade: no label as a whole, and no part in these scores",
        "whole recordings, dose (0 with a label; 90 test rows): R2 undefined",
    ]


@pytest.mark.parametrize(("passes", "said"), [(1, "1 pass:"), (10, "10 passes:")])
def test_errors_are_those_of_the_most_probable_class_and_not_of_the_threshold_that_the_accuracy_has(passes, said):
    scores = {"accuracy": 0.25, "nll": 0.5, "ece": 0.125}
    errors = {"wrong": 7, "rows": 20, "auroc_entropy": 0.75, "auroc_mutual_information": np.nan}
    payload = {
        "passes": passes,
        "tasks": {"event": {"mean": scores, "deterministic": scores, "errors": errors}},
    }
    (line,) = lines.uncertainty_lines(payload, SPEC)
    assert said in line
    assert "AUROC for the 7 of 20 labels that the most probable class misses: entropy 0.750" in line
    assert line.endswith("mutual information undefined")
