"""Fold archives: written, read back, and the pickles of old; whatever does not fit is refused in one line."""

import json
import pickle
import shutil

import numpy as np
import pytest
from relapse_material import (
    as_pickles,
    assert_same,
    config,
    days,
    notes,
    refusal,
    window_dicts,
    write_archives,
    write_days,
)

from fusion_lab.contracts import ConfigError, DataError
from fusion_lab.data import synthetic
from fusion_lab.data.relapse import load, write
from fusion_lab.data.relapse.domain import TWIN


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    write_days(folder, days(patients=3, cells=0.0))
    return load(config(folder, window=4, rows="all"))


@pytest.fixture(scope="module")
def written(original, tmp_path_factory):
    return write_archives(tmp_path_factory.mktemp("archives") / "made", original)


@pytest.fixture
def archives(written, tmp_path):
    return shutil.copytree(written, tmp_path / "archives")


def read(folder, **settings):
    return load(config(folder, window=4, rows="all", **settings))


def repickled(folder, change, part="fold_1/train"):
    """Pickles, of which one is changed."""
    as_pickles(folder)
    path = folder / f"{part}.pkl"
    windows = pickle.loads(path.read_bytes())  # noqa: S301 - written above
    changed = change(windows)
    path.write_bytes(pickle.dumps(windows if changed is None else changed))
    return path


def rewritten(folder, change, part="fold_1/train"):
    path = folder / f"{part}.npz"
    with np.load(path) as opened:
        arrays = dict(opened)
    change(arrays)
    np.savez(path, **arrays)


def test_what_is_written_is_read_again_bit_for_bit(original, written):
    again = read(written)
    assert_same(original, again)
    assert again.given_split.tolist() == original.given_split.tolist()
    assert again.order.tolist() == original.order.tolist()


def test_what_was_said_of_the_days_is_said_of_their_archives(tmp_path):
    write_archives(tmp_path / "made", load(config(twin={"patients": 3, "widths": {"hr": 2}})))
    told = load(config(tmp_path / "made")).provenance.notes
    assert TWIN in told and len(set(told)) == len(told)


def test_missing_cells_survive(tmp_path):
    write_days(tmp_path, days(patients=3, cells=0.2))
    original = load(config(tmp_path, window=4))
    assert any(not o[original.valid[name]].all() for name, o in original.observed.items())
    assert_same(original, load(config(write_archives(tmp_path / "made", original), window=4)))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_old_give_the_same_windows(original, archives, protocol):
    assert_same(original, read(as_pickles(archives, protocol)))


def test_pickles_without_metadata_have_the_usual_names_and_say_that_values_are_as_they_were(original, archives):
    (archives / "metadata.json").unlink()
    again = read(as_pickles(archives))
    assert again.ids.tolist() == original.ids.tolist()
    assert [m.name for m in again.spec.modalities] == ["accel", "sleep"]
    assert "values are as they were when the archives were written" in "\n".join(again.provenance.notes)
    assert "as they were" not in notes(write_archives(archives.parent / "ours", original), window=4)


def test_folds_hold_one_patient_out_and_count_what_they_hold(original, written):
    told = json.loads((written / "metadata.json").read_text())
    assert told["n_folds"] == len(set(original.group)) == len(told["folds"])
    for k, fold in enumerate(told["folds"]):
        for part in ("train", "val", "test"):
            windows = window_dicts(written / f"fold_{k}" / f"{part}.npz")
            own = original.group == fold["patient"]
            expected = ~own if part == "train" else own & (original.given_split == part)
            names = [f"{w['patient_id']}/{w['sequence_name']}/{w['window_end_day']}" for w in windows]
            assert names == original.ids[expected].tolist()
            labels = [int(w["labels"][-1]) if w["label_mask"][-1] else -1 for w in windows]
            counts = {"n_stable": labels.count(0), "n_relapse": labels.count(1), "n_unlabeled": labels.count(-1)}
            assert fold[part] | counts | {"n_windows": len(windows)} == fold[part]


def test_the_labels_of_a_windows_days_are_those_of_their_own_rows(original, written):
    known, target = original.known["relapse"].tolist(), original.targets["relapse"].tolist()
    label = {name: t if k else -1 for name, k, t in zip(original.ids.tolist(), known, target, strict=True)}
    for window in window_dicts(written / "fold_0" / "train.npz"):
        whose = f"{window['patient_id']}/{window['sequence_name']}"
        for day, real, own in zip(window["window_days"], window["padding_mask"], window["labels"], strict=True):
            assert own == (label[f"{whose}/{day}"] if real else -1)


def test_consecutive_rows_move_to_their_calendar_days(original, archives):
    """Windows of old held the last W rows, whatever lay between them."""

    def pack(windows):
        for w in windows:
            order = np.argsort(w["padding_mask"], kind="stable")  # padding first, days in their order
            w["window_days"] = [w["window_days"][i] for i in order]
            for name in ("padding_mask", "labels", "label_mask"):
                w[name] = w[name][order]
            for part in ("features", "modality_masks"):
                w[part] = {name: of[order] for name, of in w[part].items()}

    as_pickles(archives)
    for path in sorted(archives.glob("fold_*/*.pkl")):
        windows = pickle.loads(path.read_bytes())  # noqa: S301 - written above
        pack(windows)
        path.write_bytes(pickle.dumps(windows))
    assert_same(original, read(archives))
    assert "were moved to their places in the calendar" in notes(archives, window=4)


def test_a_longer_window_is_cut_and_a_shorter_one_refused(original, written):
    assert [m.length for m in load(config(written, window=2)).spec.modalities] == [2, 2]
    assert refusal(written, window=9) == "FOLDER: expected windows of at least 9 days, found 4 (data.window)"


def test_modalities_can_be_chosen(written):
    assert [m.name for m in load(config(written, window=4, use=["sleep"])).spec.modalities] == ["sleep"]
    assert "expected modality 'hr' (data.use), found accel, sleep" in refusal(written, window=4, use=["hr"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda w: w[2].__delitem__("labels"),
            "fold_1/train.pkl: window 3: expected patient_id, sequence_name, window_end_day, ..., found no 'labels'",
        ),
        (
            lambda w: w[1]["features"].__delitem__("sleep"),
            "fold_1/train.pkl: window 2: expected the parts of the first window, found others (features/sleep)",
        ),
        (
            lambda w: w[1]["features"].update(sleep=np.zeros((4, 7))),
            "fold_1/train.pkl: window 2: expected 'features/sleep' of shape (4, 2), found float64 of shape (4, 7)",
        ),
        (
            lambda w: [{**x, "features": {**x["features"], "sleep": np.zeros((4, 7))}} for x in w],
            "fold_1/train.pkl: 'features/sleep': expected shape",
        ),
        (
            lambda w: [{**x, "features": {**x["features"], "hr": np.zeros((4, 7))}} for x in w],
            "fold_1/train.pkl: expected modalities accel, sleep, found 'hr' as well",
        ),
        (
            lambda w: w[0]["labels"].__setitem__(-1, 3) or w[0]["label_mask"].__setitem__(-1, True),
            "fold_1/train.pkl: window 1: expected labels 0, 1 or -1 of unknown ones, found 3",
        ),
        (
            lambda w: w[0]["features"]["sleep"].__setitem__((-1, 0), np.inf),
            "fold_1/train.pkl: window 1, place 4, sleep 1: expected a finite number, found inf",
        ),
        (
            lambda w: w[0].update(window_days=[5, 5, 5, 5], padding_mask=np.ones(4, bool), window_end_day=5),
            "fold_1/train.pkl: window 1: expected each day once, found [5, 5, 5, 5]",
        ),
        (lambda w: w[0].update(window_end_day=999), "fold_1/train.pkl: window 1: expected days up to the last, 999"),
        (lambda w: w.append(w[0]), "fold_1/train.pkl: expected each window once, found"),
        (lambda w: {"no": "list"}, "fold_1/train.pkl: expected a list of windows, a dict each, found dict"),
        (
            lambda w: w[0]["features"]["sleep"].__setitem__((-1, 0), 77.0),
            "expected the same as in an earlier file, found another",
        ),
    ],
)
def test_pickled_windows_that_do_not_fit_are_refused(archives, change, line):
    repickled(archives, change)
    assert line in refusal(archives, window=4)


def everywhere(**parts):
    """A change of the same parts of every window."""
    return lambda windows: [{**window, **parts} for window in windows]


ENDLESS: list = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (everywhere(window_end_day="x"), "'window_end_day': expected numbers, found type <U1"),
        (everywhere(window_end_day=10.0**30), "'window_end_day': expected whole numbers up to 10,000,000, found 1e+30"),
        (everywhere(labels=["stable"] * 4), "'labels': expected numbers, found type <U6"),
        (everywhere(labels=[float("inf")] * 4), "'labels': expected whole numbers up to 10,000,000, found inf"),
        (everywhere(label_mask=["True"] * 4), "'label_mask': expected numbers, found type <U4"),
        (everywhere(padding_mask=[2] * 4), "'padding_mask': expected True and False, or 1 and 0, found 2"),
        (
            everywhere(window_days=[[1], [2, 3]]),
            "window 1: expected 'window_days' of shape (), found object of shape ()",
        ),
        (everywhere(window_days=ENDLESS), "window 1: expected 'window_days' of shape (), found object of shape ()"),
        (everywhere(patient_id="two\nlines"), "expected each window once, found 'two lines/"),
        (
            everywhere(features={1: np.zeros((4, 1))}),
            "window 1: expected patient_id, sequence_name, window_end_day, ...",
        ),
        (
            everywhere(features={"a/b": np.ones((4, 3))}, modality_masks={"a/b": np.ones(4, bool)}),
            "expected names of letters, digits, _ and -, a letter first, found 'a/b'",
        ),
    ],
)
def test_pickled_values_that_are_no_windows_are_refused(archives, change, line):
    (archives / "metadata.json").unlink()
    repickled(archives, change, "fold_0/train")
    assert line in refusal(archives, window=4)


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        ("features/accel", lambda of: of.astype(str), "'features/accel': expected numbers, found type <U32"),
        ("features/accel", lambda of: np.full(of.shape, 1e300), "expected a finite number, found 1e+300"),
        ("modality_masks/accel", lambda of: of.astype(str), "'modality_masks/accel': expected numbers, found type <U5"),
        ("modality_masks/accel", lambda of: of * np.nan, "expected True and False, or 1 and 0, found nan"),
    ],
)
def test_arrays_of_what_cannot_be_are_refused(archives, name, change, line):
    rewritten(archives, lambda arrays: arrays.update({name: change(arrays[name])}), "fold_0/train")
    assert line in refusal(archives, window=4)


def test_what_is_observed_fits_the_features(archives):
    rewritten(archives, lambda arrays: arrays.update({"observed/accel": np.ones((1, 1, 1), bool)}), "fold_0/train")
    assert "'observed/accel': expected shape" in refusal(archives, window=4)
    rewritten(archives, lambda a: a.update({"observed/hr": a.pop("observed/accel")}), "fold_0/train")
    assert "expected modalities accel, sleep, found 'hr' as well" in refusal(archives, window=4)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"classes": ["a", "a"]}, "metadata.json: classes: expected two names"),
        ({"classes": ["a", "b", "c"]}, "metadata.json: classes: expected two names"),
        ({"task": "a b"}, "metadata.json: expected names of letters, digits, _ and -, a letter first, found 'a b'"),
        ({"feature_names": {"accel": ["x"] * 3}}, "metadata.json: feature_names.accel: expected different names"),
        ({"feature_names": {"accel": "x"}}, "metadata.json: feature_names.accel: expected different names"),
    ],
)
def test_names_that_cannot_be_used_are_refused(archives, told, line):
    path = archives / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    assert refusal(archives, window=4).startswith(line)


def test_a_planted_pickle_is_refused_by_name_and_does_nothing(archives):
    as_pickles(archives)
    path = archives / "fold_1" / "val.pkl"
    path.write_bytes(f"cos\nsystem\n(S'touch {archives}/planted'\ntR.".encode())
    assert refusal(archives, window=4).endswith("found os.system, which is not loaded")
    assert not (archives / "planted").exists()


def test_shapes_that_are_not_the_metadatas_are_refused(archives):
    path = archives / "metadata.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "modality_dims": {"accel": 38, "sleep": 2}}))
    assert "'features/accel': expected shape" in refusal(archives, window=4)
    path.write_text("{")
    assert refusal(archives, window=4).startswith("metadata.json: expected readable JSON")
    path.write_text(json.dumps({**told, "modality_dims": {"accel": "many"}}))
    assert "modality_dims.accel: expected a whole number from 1 on, found 'many'" in refusal(archives, window=4)


def test_arrays_that_do_not_fit_are_refused(archives):
    rewritten(archives, lambda arrays: arrays.update({"features/accel": arrays["features/accel"][:, :2]}))
    assert "fold_1/train.npz: 'features/accel': expected shape" in refusal(archives, window=4)


def test_files_that_break_off_are_refused_in_one_line(archives):
    path = archives / "fold_1" / "train.npz"
    path.write_bytes(path.read_bytes()[:-200])
    assert refusal(archives, window=4).startswith("fold_1/train.npz: expected a readable NPZ file")
    path.unlink()
    assert "fold_1: expected train, val, test (.npz or .pkl), found no train" in refusal(archives, window=4)


def test_an_archive_without_its_names_or_its_metadata_is_refused(archives):
    rewritten(archives, lambda arrays: arrays.pop("patient_id"))
    assert "fold_1/train.npz: expected an array 'patient_id' of shape (windows,)" in refusal(archives, window=4)
    (archives / "metadata.json").unlink()
    assert "expected metadata.json beside train.npz, found none" in refusal(archives, window=4)


def test_arrays_of_objects_are_never_unpickled(archives):
    rewritten(archives, lambda arrays: arrays.update({"labels": np.array([{}], dtype=object)}))
    assert "found Python objects, which are never unpickled" in refusal(archives, window=4)


def test_values_as_they_were_written_are_not_normalised_again(archives):
    for normalise, how in (("past", "by earlier days"), ("patient", "per patient")):
        expected = f"expected archives whose values are standardised {how} (data.normalise={normalise}), found none"
        assert expected in refusal(archives, window=4, normalise=normalise)
    assert "expected archives with a modality 'weekday' (data.weekday)" in refusal(archives, window=4, weekday="day")


def test_archives_stand_for_the_days_that_they_were_written_from(tmp_path):
    """Also those of settings that changed the days, and nothing is told twice or of more than there was."""
    settings = {"normalise": "past", "weekday": "of_week", "window": 4}
    write_days(tmp_path, days(patients=3, length=9).assign(of_week=lambda f: f["day"] % 7))
    original = load(config(tmp_path, **settings, leakage_auroc=0.55))
    again = load(config(write_archives(tmp_path / "made", original), **settings, leakage_auroc=0.55))
    assert_same(original, again)
    told = again.provenance.notes
    assert len(set(told)) == len(told) and not any("flattered" in note for note in told)


def test_only_windows_of_named_sequences_are_written(original, tmp_path):
    other = synthetic.load(synthetic.SyntheticConfig(rows=20))
    with pytest.raises(DataError, match="expected sequences of one length for fold archives, found clinical"):
        write(other, tmp_path / "x", "none", print)
    with pytest.raises(ConfigError, match="encoder: expected none"):
        write(original, tmp_path / "x", "pca", print)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="expected an empty folder, or one of fold archives, found 'mine.txt'"):
        write(original, tmp_path, "none", print)
    assert (tmp_path / "mine.txt").exists()


def test_what_an_earlier_run_wrote_is_replaced(original, archives):
    (archives / "fold_7").mkdir()
    write_archives(archives, original)
    assert not (archives / "fold_7").exists()
    assert_same(original, read(archives))
