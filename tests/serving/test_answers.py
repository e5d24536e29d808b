"""What a model says: class names that follow from probabilities, spreads of members, steps that were given."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from serving_material import final, materials, records

from fusion_lab.contracts import DataError
from fusion_lab.evaluation.calibration import with_temperature
from fusion_lab.serving.answers import ATTENTION, ROWS_AT_ONCE, answer, columns_of, pooled, predict
from fusion_lab.serving.intake import read_rows

SPEC = materials().spec


def told(**options) -> pd.DataFrame:
    return predict(final().package, records(), **options)


def test_every_task_has_its_columns_and_every_row_a_line():
    frame = told()
    assert list(frame.columns) == columns_of(SPEC)
    assert len(frame) == len(records()) == 60
    assert not frame.isna().any().any()


def test_probabilities_are_the_calibrated_members_mean_and_sum_to_one():
    package = final().package
    frame, scores = told(), answer(package, records()).scores
    for task in SPEC.tasks[:2]:
        of = frame[[f"{task.name}.probability.{name}" for name in task.classes]].to_numpy(float)
        np.testing.assert_allclose(of.sum(1), 1, atol=1e-12)
        each = with_temperature(task, scores[task.name], package.temperature[task.name])
        mean = each.mean(0)
        np.testing.assert_allclose(of if task.kind == "multiclass" else of[:, 1], mean)
    np.testing.assert_allclose(frame["dose"].to_numpy(float), scores["dose"].mean(0))
    np.testing.assert_allclose(frame["dose.spread"].to_numpy(float), scores["dose"].std(0, ddof=1))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.01])
def test_the_class_follows_from_threshold_or_largest_probability(threshold):
    package = replace(final().package, threshold={"outcome": threshold, "moving": threshold})
    frame = predict(package, records())
    yes = frame["outcome.probability.yes"].to_numpy(float) >= threshold
    assert frame["outcome"].tolist() == np.where(yes, "yes", "no").tolist()
    grades = frame[[f"grade.probability.{name}" for name in SPEC.task("grade").classes]].to_numpy(float)
    assert frame["grade"].tolist() == [SPEC.task("grade").classes[code] for code in grades.argmax(1)]


def test_a_single_member_has_no_spread():
    frame = predict(final("refit").package, records())
    for name in ("outcome.spread", "grade.spread", "dose.spread"):
        assert frame[name].isna().all()


def test_the_spread_of_equal_members_is_zero_and_grows_with_their_difference():
    package, scores = final().package, {"outcome": np.array([[0.2, 0.2], [0.2, 0.6]])}
    package = replace(package, spec=replace(SPEC, tasks=SPEC.tasks[:1]), temperature={})
    mean, spread = pooled(package, scores)
    np.testing.assert_allclose(mean["outcome"], [0.2, 0.4])
    np.testing.assert_allclose(spread["outcome"], [0, np.std([0.2, 0.6], ddof=1)], atol=1e-12)


def test_a_task_per_step_answers_for_the_steps_that_were_given():
    rows = [{"left": [1, 2, 3], "walk": [[0.1, 0.2]] * count} for count in (5, 2)] + [{"left": [1, 2, 3]}]
    frame = predict(final().package, read_rows(rows, SPEC))
    assert [len(steps) for steps in frame["moving"]] == [5, 2, 0]
    assert [len(steps) for steps in frame["moving.probability.yes"]] == [5, 2, 0]
    alone = predict(final().package, read_rows(rows[1:2], SPEC))
    np.testing.assert_allclose(frame["moving.probability.yes"][1], alone["moving.probability.yes"][0], atol=1e-6)


def test_rows_do_not_depend_on_their_neighbours_nor_on_how_many_are_asked_at_once():
    package = final().package
    some = np.array([7, 3, 59])
    whole, part = answer(package, records()), answer(package, records(), some)
    for task in whole.scores:
        np.testing.assert_allclose(whole.scores[task][:, some], part.scores[task], atol=1e-6)
    row, other = {"left": [1, 2, 3], "walk": [[0.1, 0.2]] * 4}, {"cells": [[1, 2]]}
    many = predict(package, read_rows([row, other] * ROWS_AT_ONCE, SPEC))
    once = pd.concat([predict(package, read_rows([row, other], SPEC))] * ROWS_AT_ONCE, ignore_index=True)
    per_step = ["moving", "moving.spread"]
    pd.testing.assert_frame_equal(many.explode(per_step), once.explode(per_step))


def test_attention_is_the_members_mean_and_sums_to_one_over_what_is_there():
    frame, maps = told(attention=True), answer(final().package, records()).maps
    for row in range(0, 60, 7):
        shown = frame[ATTENTION][row]
        assert shown.keys() == maps.keys() == final().package.members.maps.keys()
        for name, found in shown.items():
            np.testing.assert_allclose(found["weights"], maps[name][:, row].mean(0), atol=1e-6)
            assert [len(labels) for _, labels in found["axes"]] == list(np.shape(found["weights"]))
    valid = materials().dataset.gather(torch.arange(60)).valid["left"].numpy()
    weights = np.array([one["modalities"]["weights"] for one in frame[ATTENTION]])
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert (weights[~valid][..., 0] == 0).all()


def test_progress_is_told():
    done = []
    told(on_rows=done.append)
    assert sum(done) == 60 and max(done) <= ROWS_AT_ONCE


def test_a_model_whose_answers_are_no_numbers_is_refused():
    members = final().package.members
    spoilt = replace(members, weights={name: leaf * float("nan") for name, leaf in members.weights.items()})
    with pytest.raises(DataError, match="expected finite answers"):
        predict(replace(final().package, members=spoilt), records())


def test_no_rows_get_no_answers():
    frame = predict(final().package, read_rows([], SPEC), attention=True)
    assert len(frame) == 0 and list(frame.columns) == [*columns_of(SPEC), ATTENTION]
