import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from report_material import BINARY, DOSE, make_groups, make_map, make_predictions

from fusion_lab.contracts import AttentionMap, Predictions, Spec
from fusion_lab.report.attention import NO_PROOF, summarise
from fusion_lab.report.attention_page import PLACES, Shown, attention_page
from fusion_lab.report.rows import choose_samples, row_groups

IDS = np.array([f"patient {i}" for i in range(40)], dtype=object)
LACKS = np.arange(40)[:, None] % 3  # the modality that a row lacks
HOSTILE = '</script><b onclick="x()">&amp;\u2028</b>'
NETWORK = re.compile(r"""https?://|//cdn|(?:src|href)\s*=|@import|url\(""")


def page_of(maps: list[AttentionMap], told: tuple[Predictions, Spec], ids: np.ndarray = IDS) -> str:
    groups = row_groups(np.arange(40), *told)
    shown = [Shown(weights, summarise(weights, groups), f"{weights.name}.parquet") for weights in maps]
    return attention_page(shown, choose_samples(*told, ids))


class Elements(HTMLParser):
    """Every element's name and attributes, and the text of the data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.data = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data += data


@pytest.fixture(scope="module")
def maps() -> list[AttentionMap]:
    days = np.arange(6) >= 6 - (1 + np.arange(40) % 6)[:, None]
    over_time = {"axes": ["time step", "asking modality", "modality"], "there": days[:, :, None, None]}
    return [
        make_map(3, 3, axes=["asking modality", "modality"], name="modalities"),
        make_map(6, axes=["day"], there=days, name="sleep steps"),
        make_map(3, axes=["modality"], kind="gate", name="gates"),
        make_map(6, 3, 3, name="over time", **over_time),
        make_map(
            3, 4, axes=["modality", "class"], kind="answer", name="answers", there=(np.arange(3) != LACKS)[:, :, None]
        ),
    ]


@pytest.fixture(scope="module")
def page(maps) -> str:
    return page_of(maps, make_predictions(BINARY))


def content(page: str) -> dict:
    return json.loads(Elements(page).data)


def test_the_page_asks_for_nothing_and_sends_nothing(page):
    script = get_plotlyjs()
    assert page.count(script) == 1
    assert NETWORK.search(page.replace(script, "")) is None
    assert content(page)["config"]["showSendToCloud"] is False


def test_maps_and_rows_are_chosen_by_labelled_selects(page):
    found = Elements(page).found
    assert [attrs["id"] for tag, attrs in found if tag == "select"] == ["map", "shown"]
    # a select inside its label is named by it
    tags = [tag for tag, _ in found]
    assert all(tags[i - 1] == "label" for i, tag in enumerate(tags) if tag == "select")


def test_every_map_and_sample_is_there_with_its_own_weights(page, maps):
    held = content(page)
    assert [m["name"] for m in held["maps"]] == [m.name for m in maps]
    assert [m["table"] for m in held["maps"]] == [f"{m.name}.parquet" for m in maps]
    assert len(held["samples"]) == int(make_predictions(BINARY)[0].known["death"].sum())
    for weights, told in zip(maps, held["maps"], strict=True):
        chart = told["charts"][0]
        if len(weights.axes) > 2:
            continue
        for sample, values in zip(held["samples"], chart["samples"], strict=True):
            own = weights.values[IDS.tolist().index(sample["id"])].reshape(-1, weights.values.shape[-1])
            found = np.array(values, float)
            assert np.array_equal(np.isnan(found), own == 0)  # what is not there is no zero
            assert np.allclose(np.nan_to_num(found), own, atol=10.0**-PLACES)


def test_samples_are_named_by_id_truth_prediction_and_fold(page):
    told, _ = make_predictions(BINARY)
    for sample in content(page)["samples"]:
        row = IDS.tolist().index(sample["id"])
        truth = BINARY.classes[int(told.target["death"][row])]
        score = told.score["death"][row]
        said = f"died {score:.2f}" if score > 0.5 else f"alive {1 - score:.2f}"
        assert sample["facts"] == f"true {truth}, predicted {said}, fold {row % 4}"
        assert sample["group"] == truth


def test_names_from_data_do_no_harm(maps):
    axis = maps[2].axes[0]._replace(name=HOSTILE, labels=(HOSTILE, "b", "c"))
    hostile = AttentionMap(HOSTILE, "gate", (axis,), maps[2].fold, maps[2].row, maps[2].values)
    ids = np.array([HOSTILE, *IDS[1:]], dtype=object)
    task = type(BINARY)(HOSTILE, "binary", (HOSTILE, "died"))
    plain, dangerous = (
        page_of([m], make_predictions(t, known=1.0), i) for m, t, i in ((maps[2], BINARY, IDS), (hostile, task, ids))
    )
    assert Elements(dangerous).found == Elements(plain).found
    held = content(dangerous)
    assert HOSTILE in [sample["id"] for sample in held["samples"]]
    assert held["maps"][0]["name"] == HOSTILE
    assert held["maps"][0]["charts"][0]["axes"][0]["labels"][0] == HOSTILE


def test_the_page_says_how_rows_were_chosen_and_what_attention_is_not(page, maps):
    assert content(page)["caution"] == NO_PROOF
    assert content(page)["choice"].startswith("Single rows to choose from: ")
    assert "most confident wrong ones" in content(page)["choice"]
    assert "furthest" in content(page_of(maps[:1], make_predictions(DOSE)))["choice"]
    assert "all of them" in content(page_of(maps[:1], make_predictions(DOSE, known=0.0)))["choice"]


def test_a_row_that_a_map_does_not_have_has_no_weights_there(maps):
    whole = maps[1]
    some = AttentionMap("some", whole.kind, whole.axes, whole.fold[:5], whole.row[:5], whole.values[:5])
    shown = [Shown(w, summarise(w), "") for w in (whole, some)]
    told = content(attention_page(shown, choose_samples(*make_predictions(BINARY), IDS)))
    for sample, values in zip(told["samples"], told["maps"][1]["charts"][0]["samples"], strict=True):
        assert (values is None) == (IDS.tolist().index(sample["id"]) >= 5)


def test_averages_carry_rows_deviation_and_the_even_share(maps):
    summary = summarise(maps[1], make_groups())
    told = content(attention_page([Shown(maps[1], summary, "")], []))["maps"][0]["charts"][0]
    for panel, given in zip(told["panels"], summary.main.panels, strict=True):
        assert panel["count"] == given.count.tolist()
        for name, array in (("mean", given.mean), ("std", given.std), ("alike", given.uniform)):
            assert np.allclose(np.array(panel[name], float), array, atol=10.0**-PLACES, equal_nan=True)


def test_answers_have_colours_of_their_own_and_no_even_share(page, maps):
    held = content(page)
    assert held["diverging"] != held["scale"]
    (told,) = (m for m in held["maps"] if m["kind"] == "answer")
    for chart in told["charts"]:
        assert all(value is None for panel in chart["panels"] for row in panel["alike"] for value in row)
