"""Models in a real store: ranked by their metrics, versions, aliases, decisions."""

import pytest

from fusion_lab.contracts import UserError
from fusion_lab.tracking.registry import CHALLENGER, CHAMPION, MOST_DECISIONS, Decision, Registry, decisions


@pytest.fixture(scope="session")
def registry(store) -> Registry:
    return Registry(store)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights.bin").write_bytes(b"weights")
    return tmp_path / "files"


@pytest.fixture
def made(registry, store, experiment, folder):
    """A registered version: ``made(name, score)``."""

    def make(name: str, score: float = 0.5, fingerprint: str = "one"):
        with store.start_run(experiment, f"run of {name}") as run:
            model = registry.log_model(run, name, folder, {"val/auroc": score}, "final", {"members": 5})
            tags = {"fusion_lab.fingerprint": fingerprint}
            return registry.register(name, model, run, f"{name}, described", tags)

    return make


def test_models_are_ranked_by_their_metrics_and_metrics_belong_to_run_and_model(registry, store, folder):
    place = store.experiment_id("ranked")
    scores = {"first": 0.6, "second": 0.9, "third": 0.7}
    with store.start_run(place, "three") as run:
        for step, (name, score) in enumerate(scores.items()):
            registry.log_model(
                run, name, folder, {"checkpoint/val/auroc": score, "odd": float("nan")}, "checkpoint", step=step
            )
    found = store.client.search_logged_models(
        [place], order_by=[{"field_name": "metrics.checkpoint/val/auroc", "ascending": False}]
    )
    assert [model.name for model in found] == ["second", "third", "first"]
    assert [{m.key: m.value for m in model.metrics} for model in found] == [
        {"checkpoint/val/auroc": score} for score in (0.9, 0.7, 0.6)
    ]
    assert {model.source_run_id for model in found} == {run.id}
    assert registry.models_of(run) == set(scores)
    history = store.client.get_metric_history(run.id, "checkpoint/val/auroc")
    assert [(m.step, m.value) for m in history] == [(0, 0.6), (1, 0.9), (2, 0.7)]


def test_a_version_becomes_challenger_and_keeps_files_tags_and_its_model(registry, made, tmp_path):
    first = made("alpha", 0.6)
    second = made("alpha", 0.7, "two")
    assert [str(version.version) for version in (first, second)] == ["1", "2"]
    challenger = registry.of_alias("alpha", CHALLENGER)
    assert str(challenger.version) == "2"
    assert challenger.tags["fusion_lab.fingerprint"] == "two"
    assert (registry.download(challenger, tmp_path) / "weights.bin").read_bytes() == b"weights"
    assert str(registry.with_fingerprint("alpha", "one").version) == "1"
    assert registry.with_fingerprint("alpha", "three") is None
    assert registry.of_alias("alpha", CHAMPION) is None and registry.of_alias("nobody", CHAMPION) is None


def test_a_version_is_found_by_alias_number_and_name(registry, made):
    made("beta")
    made("beta", fingerprint="two")
    registry.point("beta", CHAMPION, "1")
    for reference, version in (
        ("beta@champion", "1"),
        ("beta/2", "2"),
        ("beta", "1"),
        ("models:/beta@challenger", "2"),
    ):
        assert str(registry.find(reference).version) == version
    registry.unpoint("beta", CHALLENGER)
    for reference, said in (
        ("beta@challenger", "expected alias 'challenger', found aliases champion (version 1)"),
        ("beta/7", "expected version 7"),
        ("bta", "did you mean 'beta'?"),
    ):
        with pytest.raises(UserError) as refused:
            registry.find(reference)
        assert said in str(refused.value)


def test_decisions_add_up_on_the_version_and_in_its_description(registry, made):
    version = made("gamma")
    for number in range(MOST_DECISIONS + 2):
        decision = Decision("refused", (f"REFUSED  rule: number {number}",)).stamped("somebody")
        registry.record(registry.find("gamma/1"), decision)
    found = registry.find("gamma/1")
    told = decisions(found)
    assert len(told) == MOST_DECISIONS
    assert told[-1]["lines"] == [f"REFUSED  rule: number {MOST_DECISIONS + 1}"]
    assert told[-1]["by"] == "somebody" and told[-1]["at"].endswith("Z")
    assert found.description.startswith("gamma, described") and found.description.count("### Decisions") == 1
    assert found.description.index(f"number {MOST_DECISIONS + 1}") < found.description.index("number 10")
    assert str(version.version) == "1"


def test_a_name_with_a_quote_is_no_query(registry, made):
    made("delta")
    assert registry.versions("nobody' OR name = 'delta") == []
