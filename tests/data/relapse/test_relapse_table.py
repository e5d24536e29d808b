"""Tables of days, ours and anybody's: what they say is kept, and what cannot be is refused in one line."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relapse_material import config, days, notes, refusal, write_days

from fusion_lab.data.readers import Table, read_table
from fusion_lab.data.relapse import load
from fusion_lab.data.relapse.table import read_days
from fusion_lab.data.relapse.windows import split_of


@pytest.fixture
def frame():
    return days(patients=3)


def read(folder, **settings):
    made = config(folder, **settings)
    return read_days(made, read_table(folder, made.file))[0]


def test_every_cell_is_where_the_table_has_it(tmp_path, frame):
    write_days(tmp_path, frame.sample(frac=1, random_state=0))
    found = read(tmp_path)
    ordered = frame.sort_values(["patient", "sequence", "day"])
    assert found.patient.tolist() == ordered["patient"].tolist()
    assert found.sequence.tolist() == ordered["sequence"].tolist()
    assert found.day.tolist() == ordered["day"].tolist()
    assert found.split.tolist() == [split_of(name) for name in ordered["sequence"]]
    for name, features in found.features.items():
        cells = ordered[[f"{name}__{feature}" for feature in features]].to_numpy()
        assert np.array_equal(np.where(found.observed[name], found.values[name], np.nan), cells, equal_nan=True)
    assert np.array_equal(found.known["relapse"], ordered["label"].notna())
    assert np.array_equal(found.targets["relapse"], ordered["label"].fillna(0).astype(float))


def test_text_and_parquet_are_the_same(tmp_path, frame):
    write_days(tmp_path, frame)
    write_days(tmp_path, frame, "daily.csv")
    one, other = read(tmp_path), read(tmp_path, file="daily.csv")
    for name in one.values:
        np.testing.assert_allclose(one.values[name], other.values[name], rtol=1e-6)
        assert np.array_equal(one.observed[name], other.observed[name])
    assert np.array_equal(one.known["relapse"], other.known["relapse"])


def test_somebody_elses_columns_are_named_in_the_settings(tmp_path, frame):
    other = frame.rename(columns={"patient": "who", "day": "nr", "sequence": "run", "label": "ill"})
    write_days(tmp_path, other.assign(part="train"))
    named = {"subject": "who", "day": "nr", "sequence": "run", "split": "part", "label": "ill"}
    columns = {"wrist": ["accel__1", "sleep__0"]}
    found = read(tmp_path, **named, modalities=columns)
    assert found.features == {"wrist": ("accel__1", "sleep__0")}
    assert set(found.split) == {"train"}
    write_days(tmp_path, frame)
    assert found.day.tolist() == read(tmp_path).day.tolist()


def test_people_without_sequences_have_one(tmp_path, frame):
    write_days(tmp_path, frame[frame["sequence"] == "val_0"].drop(columns="sequence"))
    found = read(tmp_path)
    assert set(found.sequence) == {""} and set(found.split) == {""}
    assert found.code.max() == 2


def test_several_tasks_have_a_column_each(tmp_path, frame):
    frame["mood"] = ["low" if row % 3 else "high" for row in range(len(frame))]
    frame.loc[0, "mood"] = "?"
    write_days(tmp_path, frame)
    mood = {"column": "mood", "positive": "low", "negative": "high", "unknown": ["?"], "classes": ["well", "ill"]}
    found = read(tmp_path, tasks={"low": mood, "label": {}})
    assert [(task.name, task.classes) for task in found.tasks] == [("low", ("well", "ill")), ("label", ("no", "yes"))]
    ordered = frame.sort_values(["patient", "sequence", "day"])["mood"]
    assert np.array_equal(found.targets["low"], ordered == "low")
    assert np.array_equal(found.known["low"], ordered != "?")


def test_zeros_that_were_not_computed_are_missing_in_their_columns_alone(tmp_path, frame):
    names = ["accel__0", "sleep__0"]
    frame.loc[::2, names] = 0.0
    write_days(tmp_path, frame)
    plain, told = read(tmp_path), read(tmp_path, zeros_missing=["accel__0"])
    zero = plain.observed["accel"][:, 0] & (plain.values["accel"][:, 0] == 0)
    assert zero.any()
    assert np.array_equal(told.observed["accel"][:, 0], plain.observed["accel"][:, 0] & ~zero)
    assert np.array_equal(told.observed["sleep"], plain.observed["sleep"])


FORMS = {"date": str, "time stamp": pd.Timestamp, "with a time": "{}T12:30".format}


@pytest.mark.parametrize("form", FORMS)
@given(dates=st.lists(st.dates(date(1900, 1, 1), date(2200, 1, 1)), min_size=2, max_size=8, unique=True))
@settings(max_examples=20, deadline=None)
def test_dates_count_from_each_persons_first(dates, form):
    cells = [FORMS[form](one) for one in dates]
    whole = pd.DataFrame({"subject": "a", "date": cells, "x__1": 1.0, "label": np.arange(len(dates)) % 2})
    frame = pd.concat([whole, whole.assign(subject="b").iloc[1:]], ignore_index=True)
    found = read_days(config(weekday="date"), Table("days", "days", Path(), frame, "row"))[0]
    assert found.values["weekday"].argmax(axis=1).tolist() == [
        one.weekday() for own in (dates, dates[1:]) for one in sorted(own)
    ]
    for subject, own in (("a", dates), ("b", dates[1:])):
        assert found.day[found.patient == subject].tolist() == sorted((one - min(own)).days for one in own)


def test_the_column_of_weekdays_is_no_feature_and_can_be_left_out(tmp_path, frame):
    write_days(tmp_path, frame.assign(accel__day=frame["day"] % 7))
    whole = read(tmp_path, weekday="accel__day")
    assert "day" not in whole.features["accel"] and "weekday" in whole.features
    assert set(read(tmp_path, weekday="accel__day", use=["sleep"]).features) == {"sleep"}
    assert set(read(tmp_path, weekday="accel__day", use=["sleep", "weekday"]).features) == {"sleep", "weekday"}


def broken(**columns):
    """A change of the table's first cells of some columns."""

    def change(frame):
        for name, cell in columns.items():
            frame[name] = frame[name].astype(object)
            frame.loc[2, name] = cell
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "options", "line"),
    [
        (
            broken(day="soon"),
            {},
            "daily.csv: line 4, column 'day': expected a whole number up to 10,000,000, the day, found soon",
        ),
        (
            broken(day=1.5),
            {},
            "daily.csv: line 4, column 'day': expected a whole number up to 10,000,000, the day, found 1.5",
        ),
        (
            broken(day=""),
            {},
            "daily.csv: line 4, column 'day': expected a whole number up to 10,000,000, the day, found an empty cell",
        ),
        (
            broken(day=10_000_001),
            {},
            "daily.csv: line 4, column 'day': expected a whole number up to 10,000,000, the day, found 10000001",
        ),
        (broken(patient=""), {}, "daily.csv: line 4, column 'patient': expected an id, found an empty cell"),
        (
            broken(sequence=""),
            {},
            "daily.csv: line 4, column 'sequence': expected a name (the sequences), found an empty cell",
        ),
        (
            broken(label=2),
            {},
            "daily.csv: line 4, column 'label': expected '0' or '1' of binary task 'relapse', found '2'",
        ),
        (broken(accel__0="fast"), {}, "daily.csv: line 4, column 'accel__0': expected a number, found 'fast'"),
        (broken(accel__0="inf"), {}, "daily.csv: line 4, column 'accel__0': expected a finite number, found inf"),
        (
            lambda f: f.assign(date="2021-02-30"),
            {"date": "date"},
            "daily.csv: line 2, column 'date': expected a date (such as 2021-05-24), found '2021-02-30'",
        ),
        (
            lambda f: f.assign(split="dev"),
            {},
            "daily.csv: line 2, column 'split': expected train, val, test or an empty cell, found 'dev'",
        ),
        (lambda f: f.drop(columns="label"), {}, "daily.csv: expected a column 'label' (task 'relapse'), found none"),
        (
            lambda f: f.drop(columns="day"),
            {},
            "daily.csv: expected a column 'day' or 'date' (the day of each row), found none (name it with",
        ),
        (lambda f: f.drop(columns="patient"), {}, "daily.csv: expected a column 'patient' (the ids), found none"),
        (
            lambda f: f[["patient", "sequence", "day", "label"]],
            {},
            "daily.csv: expected columns of features, named <modality>__<feature>",
        ),
        (
            lambda f: f.rename(columns={"accel__0": "9x__0"}),
            {},
            "daily.csv: columns of features: expected names of letters",
        ),
        (
            lambda f: f,
            {"zeros_missing": ["acel__0"]},
            "daily.csv: expected a column 'acel__0' (zeros that mean missing), found none (did you mean 'accel__0'?)",
        ),
        (
            lambda f: f,
            {"modalities": {"x": ["accel__9"]}},
            "daily.csv: expected a column 'accel__9' (modality 'x'), found none",
        ),
        (
            lambda f: f.assign(of_week=[7, *[0] * (len(f) - 1)]),
            {"weekday": "of_week"},
            "daily.csv: line 2, column 'of_week': expected 0 (Monday) to 6 (Sunday), found 7",
        ),
        (
            lambda f: f.assign(of_week="Tue"),
            {"weekday": "of_week"},
            "daily.csv: line 2, column 'of_week': expected a whole number up to 10,000,000, the weekday, found Tue",
        ),
        (
            lambda f: f.assign(of_week=0, weekday__0=1.0),
            {"weekday": "of_week"},
            "daily.csv: expected no modality 'weekday' beside data.weekday, found one",
        ),
        (
            lambda f: f,
            {"use": ["acel"]},
            "daily.csv: expected modality 'acel' (data.use), found none (did you mean 'accel'?)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path, frame, change, options, line):
    write_days(tmp_path, change(frame), "daily.csv")
    assert refusal(tmp_path, file="daily.csv", **options).startswith(line)


def test_a_day_that_is_there_twice_is_refused_with_both_places(tmp_path, frame):
    again = pd.concat([frame, frame.iloc[[4]]], ignore_index=True)
    write_days(tmp_path, again)
    day, whose = frame["day"][4], f"{frame['patient'][4]}/{frame['sequence'][4]}"
    found = f"found day {day} again (first in row 5; 1 such rows)"
    assert refusal(tmp_path) == (
        f"daily.parquet: row {len(again)}, column 'day': expected each day of {whose} once, {found}"
    )


def test_gaps_are_told(tmp_path, frame):
    write_days(tmp_path, frame)
    same = (frame[["patient", "sequence"]] == frame[["patient", "sequence"]].shift(1)).all(axis=1)
    between = int((frame["day"].diff()[same] - 1).sum())
    assert f"{between} days between others are not there: padded places" in notes(tmp_path)


def test_days_without_a_label_are_context_unless_told(tmp_path, frame):
    write_days(tmp_path, frame)
    with_context, without = load(config(tmp_path)), load(config(tmp_path, context=False))
    assert with_context.ids.tolist() == without.ids.tolist()
    assert without.valid["sleep"].sum() < with_context.valid["sleep"].sum()
    assert without.valid["sleep"][:, -1].equal(with_context.valid["sleep"][:, -1])
