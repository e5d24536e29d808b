import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from report_material import make_folds

from fusion_lab.report.curves import (
    _fold_lines,
    _mean_line,
    _scale_penalties,
    curves_dict,
    curves_html,
    curves_png,
    fold_matrix,
    mean_curves,
    task_of,
)


def test_a_stopped_fold_carries_its_restored_value_forward():
    found = fold_matrix(make_folds(lengths=(6, 4), bests=(5, 2)), "val/loss")
    assert np.allclose(found[0], [2, 1, 2 / 3, 1 / 2, 2 / 5, 1 / 3])
    assert np.allclose(found[1], [3, 2, 5 / 3, 3 / 2, 2, 2])
    assert np.allclose(fold_matrix(make_folds(lengths=(6, 4), bests=(5, 2)), "train/loss")[1, 3:], 1.25)


def test_means_are_over_every_fold_and_over_tasks():
    folds = make_folds()
    means = mean_curves(folds)
    assert np.allclose(means["train/loss"], fold_matrix(folds, "train/loss").mean(0))
    assert np.allclose(means["val/auroc"], (means["val/death/auroc"] + means["val/a/b/auroc"]) / 2)
    assert "epoch" not in means


def test_auxiliary_tasks_have_curves_and_are_in_no_mean():
    folds = make_folds()
    every, means = mean_curves(folds), mean_curves(folds, auxiliary=["a/b"])
    assert np.array_equal(means["val/auroc"], means["val/death/auroc"])
    assert not np.allclose(means["val/auroc"], every["val/auroc"])
    assert np.array_equal(means["val/a/b/auroc"], every["val/a/b/auroc"])
    assert "val/auroc" not in mean_curves(folds, auxiliary=["death", "a/b"])


def test_a_mean_with_an_undefined_fold_is_undefined():
    means = mean_curves(make_folds(undefined={(1, 2)}))
    # epoch 2 is also the restored one, which is carried to the epochs 5 and 6
    assert np.isnan(means["val/death/auroc"]).tolist() == [False, True, False, False, True, True]
    assert np.isnan(means["val/auroc"]).tolist() == [False, True, False, False, True, True]


def test_a_tasks_name_may_hold_slashes():
    assert task_of("val/a/b/auroc") == "a/b"
    assert task_of("train/loss") == ""
    assert task_of("lr") == ""


def test_every_fold_is_in_the_numbers():
    folds = make_folds()
    assert curves_dict(folds)["folds"] == [
        {
            "fold": f.fold,
            "name": f.name,
            "best_epoch": f.best_epoch,
            "epochs": f.epochs,
            "ending": f.ending,
            "history": list(f.history),
        }
        for f in folds
    ]


def test_the_picture_has_ink_in_both_panels():
    picture = np.asarray(Image.open(io.BytesIO(curves_png(make_folds(undefined={(0, 3)}), "demo"))).convert("L"))
    left, right = np.array_split(picture, 2, axis=1)
    assert min((left < 200).sum(), (right < 200).sum()) > 500


def test_the_page_needs_no_network():
    page = curves_html(make_folds(undefined={(0, 3)}), "demo <1>")
    assert "<script src=" not in page
    assert "demo &lt;1&gt;" in page
    assert '"showSendToCloud": false' in page  # no button that uploads the figure
    assert len(page) > 1e6
    assert page.count('class="plotly-graph-div"') == 1


def test_a_watched_f1_is_called_macro():
    history = ({"epoch": 1, "val/act/f1": 0.5}, {"epoch": 2, "val/act/f1": 0.6})
    page = curves_html([replace(fold, history=history) for fold in make_folds((2, 2), (2, 1))])
    assert "act: validation macro F1" in page and "validation f1" not in page


def test_no_fold_looks_like_the_mean():
    black = _mean_line(make_folds(), "val/loss", "solid", True).line.color
    folds = make_folds(lengths=(2,) * 24, bests=(1,) * 24)
    looks = [(line.line.color, line.line.dash) for line in _fold_lines(folds, "val/loss", "solid", True)]
    assert len(set(looks)) == len(looks) and black not in {colour for colour, _ in looks}
    assert {line.line.dash for line in _fold_lines(folds, "train/loss", "dot", True)} == {"dot"}


def with_penalties(values) -> list:
    """The folds' curves, and those of penalties by ``values``, ``{name: epoch -> value}``."""
    more = {f"train/{name}": value for name, value in values.items()}
    return [
        replace(f, history=tuple({**row, **{n: v(row["epoch"]) for n, v in more.items()}} for row in f.history))
        for f in make_folds()
    ]


@pytest.mark.parametrize("last", [1e-3, 0.0], ids=["logarithmic", "with a 0"])
def test_penalties_have_a_panel_of_their_own_and_change_no_other(last):
    plain = np.asarray(Image.open(io.BytesIO(curves_png(make_folds()))).convert("L"))
    folds = with_penalties({"kl": lambda e: last * e, "imputation": lambda e: 1 / e})
    picture = np.asarray(Image.open(io.BytesIO(curves_png(folds))).convert("L"))
    assert picture.shape[0] == plain.shape[0] and picture.shape[1] > plain.shape[1]
    below = slice(30, None)  # the heading
    width = plain.shape[1] - 20
    assert np.array_equal(picture[below, :width], plain[below, :width])
    assert (picture[below, plain.shape[1] :] < 200).mean() > 0.01


@pytest.mark.parametrize("values", [{"a": lambda e: 1 / e, "b": lambda e: 0.1 / e}, {"a": lambda e: 0.0}])
def test_names_of_penalties_stand_above_their_curves(values):
    folds, names = with_penalties(values), [f"train/{name}" for name in values]
    axes = Figure().add_subplot()
    _scale_penalties(axes, folds, names)
    highest = max(np.nanmax(fold_matrix(folds, name)) for name in names)
    _, top = axes.transAxes.inverted().transform(axes.transData.transform((1, highest)))
    assert top < 0.93 - 0.085 * (len(names) - 1)
