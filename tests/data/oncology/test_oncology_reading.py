"""Reading one modality's file: which data set is which, slides as means, and what is wrong told in one line."""

from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oncology_material import change, refusal, write_file, write_layout

from fusion_lab.data.oncology.reading import read_embedded
from fusion_lab.data.oncology.settings import EMBEDDING_KEYS, ID_KEYS, QUALITY_KEYS, FileConfig

N, F = 6, 3
IDS = [f"p{i}" for i in range(N)]
VALUES = np.arange(N * F, dtype=np.float32).reshape(N, F)


def written(folder: Path, **arrays) -> Path:
    given = {"ids": IDS, "embedding": VALUES} | arrays
    write_file(folder / "temporal.h5", {name: array for name, array in given.items() if array is not None})
    return folder / "temporal.h5"


def read(path: Path, **settings):
    return read_embedded(path, "temporal", FileConfig(**settings))


@pytest.mark.parametrize("place", range(len(ID_KEYS)))
def test_the_first_known_name_of_the_ids_counts(tmp_path, place):
    arrays = {key: [f"{i + 100 * k}" for i in range(N)] for k, key in enumerate(ID_KEYS) if k >= place}
    path = written(tmp_path, **{"ids": None, **arrays})
    assert read(path).ids.tolist() == arrays[ID_KEYS[place]]


@pytest.mark.parametrize("place", range(len(EMBEDDING_KEYS)))
def test_the_first_known_name_of_the_embedding_counts(tmp_path, place):
    arrays = {key: VALUES + k for k, key in enumerate(EMBEDDING_KEYS) if k >= place}
    np.testing.assert_array_equal(read(written(tmp_path, **{"embedding": None, **arrays})).values, VALUES + place)


def test_without_a_known_name_the_only_matrix_is_the_embedding(tmp_path):
    beside = {"observed": np.ones((N, F)), "modality_quality": np.ones((N, 2)), "small": np.ones((N - 1, F))}
    path = written(tmp_path, embedding=None, mine=VALUES, **beside)
    np.testing.assert_array_equal(read(path).values, VALUES)
    change(path, yours=VALUES + 1)
    assert "found 'mine', 'yours' (choose with data.files.temporal.embedding)" in told(tmp_path)
    np.testing.assert_array_equal(read(path, embedding="yours").values, VALUES + 1)


@pytest.mark.parametrize("place", range(len(QUALITY_KEYS)))
def test_the_first_known_name_of_the_quality_counts(tmp_path, place):
    arrays = {key: np.full(N, (k + 1) / 8) for k, key in enumerate(QUALITY_KEYS) if k >= place}
    assert set(read(written(tmp_path, **arrays)).quality) == {(place + 1) / 8}


def test_the_quality_is_the_mean_of_what_is_known_of_it_and_else_1(tmp_path):
    scores = np.array([[0.5, np.nan], [0.25, 0.75], [np.nan, np.nan], [0, 0], [1, 1], [0, 1]])
    assert read(written(tmp_path, quality=scores)).quality.tolist() == [0.5, 0.5, 1, 0, 1, 0.5]
    assert read(written(tmp_path)).quality.tolist() == [1.0] * N


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({}, ("e0", "e1", "e2")),
        ({"feature_names": ["a", "b", "c"], "orig_feature_names": ["x", "y", "z"]}, ("a", "b", "c")),
        ({"orig_feature_names": ["x", "y", "z"]}, ("x", "y", "z")),
        ({"orig_feature_names": ["x", "y", "z", "z"]}, ("e0", "e1", "e2")),
    ],
)
def test_features_are_named_by_the_file_or_numbered(tmp_path, arrays, names):
    assert read(written(tmp_path, **arrays)).features == names


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, ">f4"])
def test_numbers_of_any_type_become_32_bits(tmp_path, dtype):
    made = read(written(tmp_path, embedding=VALUES.astype(dtype)))
    assert made.values.dtype == np.float32
    np.testing.assert_array_equal(made.values, VALUES)


def test_what_is_not_observed_is_not_looked_at(tmp_path):
    values, observed = VALUES.copy(), np.ones((N, F), bool)
    values[2, 1], observed[2, 1] = np.nan, False
    made = read(written(tmp_path, embedding=values, observed=observed))
    np.testing.assert_array_equal(made.values, np.nan_to_num(values))
    np.testing.assert_array_equal(made.observed, observed)


@settings(max_examples=25)
@given(st.integers(0, 999), st.integers(1, 5), st.integers(5, 30), st.floats(0, 0.5))
def test_slides_of_a_patient_are_their_weighted_mean(seed, patients, rows, gaps):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, patients, rows)
    values, observed = rng.normal(size=(rows, F)).astype(np.float32), rng.random((rows, F)) >= gaps
    patches, quality = rng.integers(1, 2000, rows), rng.random(rows)
    with TemporaryDirectory() as folder:
        arrays = {"embedding": values, "observed": observed, "n_patches": patches, "quality": quality}
        made = read(written(Path(folder), ids=ids, **arrays))
    assert made.rows == rows
    assert made.ids.tolist() == [str(i) for i in dict.fromkeys(ids.tolist())]
    for place, patient in enumerate(made.ids.astype(int)):
        own = ids == patient
        assert made.quality[place] == pytest.approx(quality[own].mean(), abs=1e-6)
        for feature in range(F):
            seen = own & observed[:, feature]
            assert made.observed[place, feature] == seen.any()
            mean = np.average(values[seen, feature], weights=patches[seen]) if seen.any() else 0.0
            assert made.values[place, feature] == pytest.approx(mean, abs=1e-6)


def kinds(path: Path) -> tuple[str, ...]:
    return read(path).kinds


def test_features_are_measurements_unless_the_file_says_that_they_are_0_or_1(tmp_path):
    values, observed = VALUES.copy(), np.ones((N, F), bool)
    values[:, 1], observed[2, 1] = [0, 1, 9, 0, 1, 1], False
    path = written(tmp_path, embedding=values, observed=observed)
    assert kinds(path) == ("numeric",) * F
    change(path, feature_kinds=["numeric", "binary", "numeric"])
    assert kinds(path) == ("numeric", "binary", "numeric")
    assert read(path, ignore=("e0",)).kinds == ("binary", "numeric")


def test_means_of_slides_are_measurements(tmp_path):
    told_binary = {"embedding": VALUES % 2, "feature_kinds": ["binary"] * F}
    made = read(written(tmp_path, ids=[1, 1, 1, 2, 2, 2], n_patches=np.arange(1, N + 1), **told_binary))
    assert not np.isin(made.values, (0, 1)).all()
    assert made.kinds == ("numeric",) * F


def told(folder: Path, **settings) -> str:
    """What is said of the modality's file beside a sound patients' file."""
    write_layout(folder / "sound", rows=30)
    (folder / "temporal.h5").replace(folder / "sound" / "temporal.h5")
    message = refusal(folder / "sound", **settings)
    (folder / "sound" / "temporal.h5").replace(folder / "temporal.h5")
    return message


def spoilt(value: float) -> np.ndarray:
    values = VALUES.astype(np.float64)
    values[4, 1] = value
    return values


CASES = {
    "no ids": (
        {"ids": None, "who": IDS},
        "expected the patients' ids (patient_id, patient_index_map, patient_ids, ids,",
    ),
    "misspelled ids": ({"ids": None, "patientid": IDS}, "(is 'patientid' meant? say so with data.files.temporal.ids)"),
    "no embedding": ({"embedding": None}, "found 'ids' (name it with data.files.temporal.embedding)"),
    "misspelled": ({"embedding": None, "embeding": VALUES[:2]}, "(is 'embeding' meant? say so with data.files.temp"),
    "rows differ": ({"embedding": VALUES[:5]}, "data set 'embedding': expected 6 rows as there are ids, found 5"),
    "nan": ({"embedding": spoilt(np.nan)}, "'embedding': row 5 (patient '4'), column 2: expected a finite number, fou"),
    "infinite": ({"embedding": spoilt(np.inf)}, "row 5 (patient '4'), column 2: expected a finite number, found inf"),
    "too large": ({"embedding": spoilt(1e300)}, "row 5 (patient '4'), column 2: expected a finite number, found 1e+30"),
    "deep": ({"embedding": VALUES[..., None]}, "'embedding': expected two dimensions, found shape (6, 3, 1)"),
    "flat": ({"embedding": VALUES[:, 0]}, "data set 'embedding': expected two dimensions, found shape (6,)"),
    "no features": ({"embedding": VALUES[:, :0]}, "expected one feature at least, found shape (6, 0)"),
    "texts": ({"embedding": VALUES.astype(str)}, "data set 'embedding': expected numbers, found text"),
    "complex": ({"embedding": VALUES * 1j}, "data set 'embedding': expected numbers or text, found type complex"),
    "quality above 1": ({"quality": np.linspace(0.5, 1.1, N)}, "'quality': row 6 (patient '5'): expected a quality in"),
    "negative quality": ({"quality": -np.ones((N, 2))}, "row 1 (patient '0'), column 1: expected a quality in [0, 1]"),
    "quality rows": ({"quality": np.ones(N + 1)}, "data set 'quality': expected 6 rows as there are ids, found 7"),
    "observed shape": ({"observed": np.ones((N, 2), bool)}, "expected shape (6, 3) as of 'embedding', found (6, 2)"),
    "observed values": ({"observed": np.full((N, F), 2)}, "row 1 (patient '0'), column 1: expected 0 or 1, found 2"),
    "name count": ({"feature_names": ["a"]}, "data set 'feature_names': expected 3 names of features, found 1"),
    "name twice": ({"feature_names": ["a", "b", "a"]}, "row 3: expected each name once, found 'a' again"),
    "empty name": ({"feature_names": ["a", " ", "c"]}, "row 2: expected a name in one line, found ''"),
    "kinds": ({"feature_kinds": ["binary", "ordinal", "numeric"]}, "expected 3 words numeric or binary, found 3: 'b"),
    "kind count": ({"feature_kinds": ["binary"]}, "'feature_kinds': expected 3 words numeric or binary, found 1: 'bi"),
    "coded kinds": ({"feature_kinds": [0, 1, 0]}, "expected 3 words numeric or binary, found 3: '0', '1'"),
    "third value": (
        {"feature_kinds": ["numeric", "numeric", "binary"]},
        "'embedding': row 1 (patient '0'), column 3: expected 0 or 1 in a binary feature, found 2.0",
    ),
    "no utf-8": (
        {"ids": np.array([b"p\xe4" + b"%d" % i for i in range(N)])},
        "'ids': expected UTF-8 text, found byte 0xe4",
    ),
    "no patients": ({"ids": np.zeros(0, int), "embedding": VALUES[:0]}, "expected at least one patient, found none"),
    "empty id": ({"ids": [*IDS[:-1], " "]}, "data set 'ids': row 6: expected an id, found an empty one"),
    "id twice": (
        {"ids": [*IDS[:-1], "p0"]},
        "row 6: expected each patient once where there is no n_patches, found 'p0'",
    ),
    "ids collide": (
        {"ids": ["p1", "p2", "01", "p4", "p5", "p6"]},
        "expected ids with different numbers, found '1' for 'p1' (row 1) and '01' (row 3)",
    ),
    "fractional id": ({"ids": np.arange(N) + 0.5}, "row 1: expected text or a whole number, found 0.5"),
    "truth as ids": ({"ids": np.ones(N, bool)}, "expected text or whole numbers, found truth values"),
    "no patches": ({"n_patches": [1, 0, 1, 1, 1, 1]}, "'n_patches': row 2: expected a whole number of patches, one at"),
    "part of a patch": ({"n_patches": np.full(N, 1.5)}, "expected a whole number of patches, one at least, found 1.5"),
    "patches of others": ({"n_patches": [1, 2]}, "data set 'n_patches': expected 6 rows as there are ids, found 2"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_told_in_one_line(tmp_path, case):
    arrays, expected = CASES[case]
    written(tmp_path, **arrays)
    message = told(tmp_path)
    assert message.startswith("temporal.h5: ")
    assert expected in message


def test_a_number_is_told_as_it_was_written(tmp_path):
    written(tmp_path, quality=np.full(N, 1.2, np.float32))
    assert told(tmp_path).endswith("expected a quality in [0, 1], found 1.2")


def test_utf_8_of_fixed_length_is_read(tmp_path):
    names = ["größe", "age", "hb"]
    path = written(tmp_path, feature_names=np.array([name.encode() for name in names]))
    assert read(path).features == tuple(names)


def test_colliding_ids_may_be_compared_as_they_are(tmp_path):
    path = written(tmp_path, ids=["a-1", "b-1", "c-1", "a-2", "b-2", "c-2"])
    plain = read_embedded(path, "temporal", FileConfig(), normalise=False)
    assert plain.ids.tolist() == ["a-1", "b-1", "c-1", "a-2", "b-2", "c-2"]
    assert "found '1' for 'a-1' (row 1) and 'b-1' (row 2)" in told(tmp_path)


@pytest.mark.parametrize("setting", ["ids", "embedding", "quality"])
def test_a_data_set_named_in_the_settings_has_to_be_there(tmp_path, setting):
    written(tmp_path)
    message = told(tmp_path, files={"temporal": FileConfig(**{setting: "embeddin"})})
    assert f"data.files.temporal.{setting}), found none (did you mean 'embedding'?)" in message


def test_a_feature_to_ignore_has_to_be_there_and_another_to_stay(tmp_path):
    written(tmp_path)
    message = told(tmp_path, files={"temporal": FileConfig(ignore=("e9",))})
    assert "expected a feature 'e9' (data.files.temporal.ignore), found none" in message
    assert "expected a feature besides" in told(tmp_path, files={"temporal": FileConfig(ignore=("e0", "e1", "e2"))})


@pytest.mark.parametrize("value", [3, np.ones(2)])
def test_an_attribute_that_is_no_text_is_refused(tmp_path, value):
    path = written(tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["encoder"] = value
    assert "attribute 'encoder': expected text, found" in told(tmp_path)
