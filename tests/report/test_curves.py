import io
from dataclasses import replace

import numpy as np
from PIL import Image
from report_material import make_folds

from fusion_lab.report.curves import (
    _fold_lines,
    _mean_line,
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
