"""From a challenger to a champion and back: who is refused, why, and what stays as it was."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from jobs_stage import Stage, refused
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from fusion_lab.cli import main
from fusion_lab.jobs import promote

NAME = "cohort"
COHORT = {
    "data": {
        "domain": "synthetic",
        "rows": 150,
        "modalities": {"left": {"width": 3}, "right": {"width": 3}},
        "planted": "additive",
        "signal": 4.0,
    },
    "model": {"d_model": 8, "nhead": 2, "dropout": 0.0},
    "optimiser": {"lr": 1e-2},
    "training": {"epochs": 8, "patience": 8, "batch_size": 32, "mode": "loop"},
    "folds": {"k": 3},
    "baselines": False,
    "promotion": {"gates": [{"rule": "better_than_champion", "alpha": 0.2}, {"rule": "answers_as_trained"}]},
}
STRICT = [{"rule": "not_worse_than_single"}, {"rule": "not_worse_than_baseline"}]


@dataclass(frozen=True)
class Registered:
    """A stage and its registry."""

    stage: Stage
    client: MlflowClient
    capsys: pytest.CaptureFixture[str]

    def run(self, verb: str, *more: str) -> tuple[int, str]:
        code = main([verb, f"--experiment={NAME}", *more])
        return code, self.capsys.readouterr().out

    def aliases(self) -> dict[str, str]:
        return {alias: str(v) for alias, v in self.client.get_registered_model(NAME).aliases.items()}

    def decisions(self, version: str) -> list[str]:
        tags = self.client.get_model_version(NAME, version).tags
        return [one["action"] for one in json.loads(tags.get("fusion_lab.decisions", "[]"))]


@pytest.fixture
def registered(stage, capsys) -> Callable[..., Registered]:
    def make(**changes) -> Registered:
        stage.experiment(NAME, COHORT, **changes)
        return Registered(stage, stage.client, capsys)

    return make


@pytest.mark.slow
def test_the_first_challenger_becomes_champion_the_second_has_to_be_better_and_the_third_can_be_rolled_back(registered):
    here = registered(training__epochs=1, optimiser__lr=1e-5)
    code, out = here.run("train")
    assert code == 0 and f"registered {NAME} version 1 as challenger" in out
    before = len(here.stage.runs())
    code, out = here.run("promote", "--dry-run")
    assert code == 0 and "would be promoted" in out
    assert here.aliases() == {"challenger": "1"} and here.decisions("1") == []
    assert len(here.stage.runs()) == before
    assert here.run("promote")[0] == 0
    assert here.aliases() == {"champion": "1"} and here.decisions("1") == ["promoted"]

    assert "version 2 as challenger" in here.run("train", "--seed=5")[1]
    code, out = here.run("promote")
    assert code == 1 and "REFUSED  better_than_champion: AUROC" in out and "stays where it was" in out
    assert here.aliases() == {"champion": "1", "challenger": "2"} and here.decisions("2") == ["refused"]
    (receipt,) = [run for run in here.stage.of_kind("promotion") if run.data.tags["verdict"] == "refused"]
    assert receipt.info.status == "FINISHED" and receipt.data.metrics["gate/better_than_champion"] == 0
    assert "decision.json" in here.stage.artifacts(receipt)

    here = registered()
    assert "version 3 as challenger" in here.run("train")[1]
    code, out = here.run("promote")
    assert code == 0, out
    assert here.aliases() == {"champion": "3"}
    assert here.decisions("1") == ["promoted", "replaced"] and here.decisions("3") == ["promoted"]
    assert here.run("promote", "--rollback", "--dry-run")[0] == 0 and here.aliases() == {"champion": "3"}
    assert here.run("promote", "--rollback")[0] == 0
    assert here.aliases() == {"champion": "1"}
    assert here.decisions("3") == ["promoted", "rolled back"]
    assert here.decisions("1") == ["promoted", "replaced", "restored"]


@pytest.mark.slow
def test_the_same_configuration_is_registered_once(registered):
    here = registered()
    assert f"registered {NAME} version 1 as challenger" in here.run("train")[1]
    assert f"{NAME} version 1 is this very model: it is the challenger" in here.run("train")[1]
    assert len(here.client.search_model_versions(f"name = '{NAME}'")) == 1
    assert "version 2 as challenger" in here.run("train", "--set=final=refit")[1]


@pytest.mark.slow
def test_a_champion_does_not_challenge_itself(registered):
    here = registered()
    here.run("train")
    here.run("promote")
    assert f"{NAME} version 1 is this very model, and champion: nothing was registered" in here.run("train")[1]
    assert here.aliases() == {"champion": "1"}


@pytest.mark.slow
def test_a_model_worse_than_a_baseline_is_refused_and_the_baseline_can_be_promoted_instead(registered):
    here = registered(training__epochs=1, optimiser__lr=1e-6, promotion__gates=STRICT)
    here.run("train")
    code, out = here.run("promote")
    assert code == 1 and "REFUSED  not_worse_than_baseline" in out and "REFUSED  not_worse_than_single" in out
    code, out = here.run("promote", "--baseline=logistic")
    assert code == 0 and f"registered {NAME} version 2: baseline logistic" in out, out
    assert here.aliases() == {"champion": "2"}
    files = {p.name for p in (here.stage.folder / "mlruns").rglob("*.skops")}
    assert files == {"baselines.skops"}
    here.stage.text("rows.csv", "left.left 0,left.left 1,left.left 2\n1,2,3\n4,5,6\n")
    assert main(["predict", f"--model={NAME}@champion", "--input=rows.csv"]) == 0
    lines = (here.stage.folder / "predictions.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("id,outcome,outcome.probability.no")


@pytest.mark.slow
def test_rows_locked_away_decide_where_there_are_any(registered):
    gates = [{"rule": "better_than_champion"}, *({**gate, "margin": 1.0} for gate in STRICT)]
    here = registered(folds__holdout=0.3, promotion__gates=gates)
    here.run("train")
    assert here.run("promote")[0] == 0
    here.run("train", "--seed=9")
    _, out = here.run("promote")
    assert out.count("on 45 holdout rows") == 3 and "swaps and bootstrap of 45 rows" in out


@pytest.mark.slow
def test_a_champion_of_other_data_is_trained_again_or_said_to_be_incomparable(registered):
    here = registered()
    here.run("train")
    here.run("promote")
    here = registered(data__seed=8)
    here.run("train")
    code, out = here.run("promote")
    assert code == 1 and "the champion cannot be compared: the champion, version 1" in out and "other rows" in out
    here = registered(folds__k=4)
    here.run("train")
    code, out = here.run("promote")
    assert "its configuration is cross-validated on these rows" in out
    assert "test rows of 4 folds" in out and "difference +0.000" in out, out


def nan_weights(here):
    """Damages the newest version's weights in the store."""
    (file, *_) = sorted(
        (here.stage.folder / "mlruns").rglob("package/weights.safetensors"), key=lambda f: f.stat().st_mtime
    )
    tensors = {n: t * float("nan") if n.startswith("weights/") else t for n, t in load_file(file).items()}
    save_file(tensors, file)


@pytest.mark.slow
def test_a_model_that_answers_no_numbers_is_no_champion(registered):
    here = registered()
    here.run("train")
    nan_weights(here)
    code, out = here.run("promote")
    assert code == 1 and "REFUSED  answers_as_trained: largest difference inf" in out
    assert here.aliases() == {"challenger": "1"}


@pytest.mark.slow
def test_what_changed_while_it_was_judged_is_not_decided(registered, monkeypatch):
    here = registered()
    here.run("train")
    here.run("train", "--seed=3")
    judged = promote.judge

    def judge_slowly(config, facts):
        here.client.set_registered_model_alias(NAME, "champion", "1")
        return judged(config, facts)

    monkeypatch.setattr(promote, "judge", judge_slowly)
    with pytest.raises(SystemExit) as stopped:
        here.run("promote")
    assert stopped.value.code == 2 and "it changed meanwhile" in here.capsys.readouterr().err
    assert here.aliases() == {"champion": "1", "challenger": "2"} and here.decisions("2") == []


@pytest.mark.slow
def test_rollbacks_come_to_an_end(registered):
    here = registered(promotion__gates=[])
    here.run("train")
    here.run("promote")
    here.run("train", "--seed=3")
    here.run("promote")
    here.client.set_registered_model_alias(NAME, "challenger", "1")
    here.run("promote")
    assert here.aliases() == {"champion": "1"}
    for expected in ("2", "1"):
        assert here.run("promote", "--rollback")[0] == 0
        assert here.aliases() == {"champion": expected}
    with pytest.raises(SystemExit):
        here.run("promote", "--rollback")
    assert "it was the first" in here.capsys.readouterr().err


@pytest.mark.slow
def test_a_baseline_is_not_worse_than_itself_on_locked_rows(registered):
    here = registered(folds__holdout=0.3, promotion__gates=STRICT)
    _, out = here.run("promote", "--baseline=prevalence")
    best = re.search(r"of baseline (\S+) on 45 holdout rows", out)
    assert best is not None, out
    _, out = here.run("promote", f"--baseline={best[1]}")
    assert re.search(rf"passed .* of baseline {best[1]} on 45 holdout rows, difference \+0.000", out), out


@pytest.mark.slow
def test_a_dry_run_leaves_locked_rows_locked(registered):
    here = registered(folds__holdout=0.3, promotion__gates=[{**gate, "margin": 1.0} for gate in STRICT])
    here.run("train")
    _, out = here.run("promote", "--dry-run")
    assert "holdout rows" not in out and "a dry run leaves the locked rows locked" in out


@pytest.mark.slow
def test_one_fold_is_compared_row_by_row(registered):
    here = registered(folds__protocol="holdout", training__epochs=1, optimiser__lr=1e-5)
    here.run("train")
    here.run("promote")
    here = registered(folds__protocol="holdout")
    here.run("train")
    code, out = here.run("promote")
    assert code == 0 and "the test rows of 1 folds together" in out and "swaps and bootstrap" in out, out


@pytest.mark.slow
def test_a_name_with_a_dot_and_a_watched_loss_are_registered_with_their_score(registered):
    here = registered(name="cohort v1.2", training__monitor="loss")
    code, out = here.run("train")
    assert code == 0 and "registered cohort v1.2 version 1 as challenger" in out
    tags = here.client.get_model_version("cohort v1.2", "1").tags
    assert 0 <= float(tags["val/auroc"]) <= 1 and "val/loss" not in tags
    assert here.run("promote")[0] == 0


@pytest.mark.slow
def test_a_champion_whose_data_are_gone_refuses_the_gate_and_says_so(registered):
    here = registered()
    here.run("train")
    here.run("promote")
    (made,) = here.client.search_model_versions(f"name = '{NAME}'")
    folder = next(p for p in (here.stage.folder / "mlruns").rglob("package") if p.is_dir())
    (folder / "model.json").write_text("{}")
    here.run("train", "--seed=3")
    code, out = here.run("promote")
    assert code == 1 and f"the champion cannot be compared: version {made.version}: " in out
    assert here.decisions("2") == ["refused"]


def test_who_is_not_there_cannot_be_promoted(registered):
    here = registered()
    for command, says in (
        ((), ("expected a challenger, found nothing registered", "fusion-lab train --experiment cohort")),
        (("--rollback",), ("expected a champion to roll back, found none",)),
        (("--baseline=tree",), ("'tree': unknown baseline", "did you mean 'trees'")),
        (("--dry-run", "--baseline=trees"), ("--baseline: expected no --dry-run",)),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["promote", f"--experiment={NAME}", *command])
        err = here.capsys.readouterr().err
        assert stopped.value.code == 2 and len(err.splitlines()) == 1, err
        assert all(part in err for part in says), err


@pytest.mark.slow
def test_a_challenger_of_other_data_is_refused_before_anything_is_judged(registered):
    here = registered()
    here.run("train")
    here.stage.experiment(NAME, COHORT, data__rows=120)
    code, _ = here.run("promote")
    assert code == 0  # a generated data set is the model's own


@pytest.mark.slow
def test_gates_come_from_the_experiment_file_as_it_is_now(registered, capsys):
    here = registered()
    here.run("train")
    impossible = json.dumps([{"rule": "answers_as_trained", "tolerance": 1e-30}])
    code, out = here.run("promote", f"--set=promotion.gates={impossible}")
    assert code == 1 and "REFUSED  answers_as_trained: largest difference" in out
    refused(
        here.stage,
        capsys,
        "promote",
        f"--experiment={NAME}",
        "--set=promotion.gates=[{rule: best_of_all}]",
        says=("promotion.gates", "best_of_all"),
    )


@pytest.mark.slow
def test_nothing_is_registered_where_the_experiment_does_not_want_it(registered):
    here = registered(promotion__challenger=False)
    _, out = here.run("train")
    assert "registered" not in out
    assert here.client.search_registered_models() == []
