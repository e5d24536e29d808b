"""What a model has to pass before it is promoted: named rules, a list of them in the experiment file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fusion_lab.config import Config
from fusion_lab.evaluation.paired import Paired


class BetterThanChampion(Config):
    """The paired test against the champion has a one-sided p of at most ``alpha``; passed where there is none."""

    rule: Literal["better_than_champion"] = "better_than_champion"
    alpha: float = Field(0.05, gt=0.0, lt=1.0)


class NotWorseThanSingle(Config):
    """The score is at most ``margin`` below that of the best single modality."""

    rule: Literal["not_worse_than_single"] = "not_worse_than_single"
    margin: float = Field(0.0, ge=0.0)


class NotWorseThanBaseline(Config):
    """The score is at most ``margin`` below that of the best baseline."""

    rule: Literal["not_worse_than_baseline"] = "not_worse_than_baseline"
    margin: float = Field(0.0, ge=0.0)


class AnswersAsTrained(Config):
    """Loaded from the registry and asked about raw rows, the model answers what it answered in training, to within
    ``tolerance`` of a probability (of a regression target's deviation).
    """

    rule: Literal["answers_as_trained"] = "answers_as_trained"
    tolerance: float = Field(1e-3, gt=0.0)


GateConfig = Annotated[
    BetterThanChampion | NotWorseThanSingle | NotWorseThanBaseline | AnswersAsTrained, Field(discriminator="rule")
]


class PromotionConfig(Config):
    """``challenger``: whether what ``train`` and ``hpo`` end with is registered. ``gates``: see :data:`GATES`."""

    challenger: bool = True
    gates: tuple[GateConfig, ...] = (
        BetterThanChampion(),
        NotWorseThanSingle(),
        NotWorseThanBaseline(),
        AnswersAsTrained(),
    )

    @model_validator(mode="after")
    def _each_rule_once(self) -> PromotionConfig:
        rules = [gate.rule for gate in self.gates]
        for rule in rules:
            if rules.count(rule) > 1:
                raise ValueError(f"expected each rule once, found {rule!r} {rules.count(rule)} times")
        return self


@dataclass(frozen=True)
class Contest:
    """A model and another on the same rows; scores are such that larger is better."""

    other: str  # "champion, version 3"
    metric: str
    rows: str  # "67 holdout rows", "test rows of 5 folds"
    ours: float
    theirs: float
    paired: Paired


@dataclass(frozen=True)
class Facts:
    """What the gates decide on. ``champion``: ``None`` where there is none, a text where it cannot be compared."""

    champion: Contest | str | None
    single: Contest
    baseline: Contest
    difference: float  # the largest between what is served and what was trained
    compared: int  # answers that it was looked for in


@dataclass(frozen=True)
class Verdict:
    """What one gate said, and why."""

    rule: str
    passed: bool
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'passed ' if self.passed else 'REFUSED'}  {self.rule}: {self.sentence}"


def judge(config: PromotionConfig, facts: Facts) -> list[Verdict]:
    """The verdict of every gate, in the order of the file; a model is promoted when all are passed."""
    return [GATES[gate.rule](gate, facts) for gate in config.gates]


def _better_than_champion(gate: BetterThanChampion, facts: Facts) -> Verdict:
    if facts.champion is None:
        return Verdict(gate.rule, True, "there is no champion yet")
    if isinstance(facts.champion, str):
        return Verdict(gate.rule, False, f"the champion cannot be compared: {facts.champion}")
    contest = facts.champion
    passed = contest.paired.p <= gate.alpha
    known = contest.paired.p == contest.paired.p
    p = (
        f"p {contest.paired.p:.3f}, {'at most' if passed else 'more than'} {gate.alpha:g}"
        if known
        else "p is undefined"
    )
    return Verdict(gate.rule, passed, f"{_told(contest)}, {p} ({contest.paired.test})", _numbers(contest))


def _not_worse_than_single(gate: NotWorseThanSingle, facts: Facts) -> Verdict:
    return _not_worse(gate.rule, gate.margin, facts.single)


def _not_worse_than_baseline(gate: NotWorseThanBaseline, facts: Facts) -> Verdict:
    return _not_worse(gate.rule, gate.margin, facts.baseline)


def _not_worse(rule: str, margin: float, contest: Contest) -> Verdict:
    passed = contest.ours - contest.theirs >= -margin
    allowed = f" (a margin of {margin:g} is allowed)" if margin else ""
    return Verdict(rule, passed, f"{_told(contest)}{allowed}", _numbers(contest))


def _answers_as_trained(gate: AnswersAsTrained, facts: Facts) -> Verdict:
    passed = facts.compared > 0 and facts.difference <= gate.tolerance
    sentence = (
        f"largest difference {facts.difference:.1e} over {facts.compared} answers to raw rows, "
        f"{'at most' if passed else 'expected at most'} {gate.tolerance:g}"
    )
    numbers = {"difference": facts.difference, "answers": facts.compared, "tolerance": gate.tolerance}
    return Verdict(gate.rule, passed, sentence, numbers)


GATES: dict[str, Callable[..., Verdict]] = {
    "better_than_champion": _better_than_champion,
    "not_worse_than_single": _not_worse_than_single,
    "not_worse_than_baseline": _not_worse_than_baseline,
    "answers_as_trained": _answers_as_trained,
}


def _told(contest: Contest) -> str:
    paired = contest.paired
    interval = f" (95 %: {paired.low:+.3f} to {paired.high:+.3f})" if paired.low == paired.low else ""
    scores = f"{contest.metric} {contest.ours:.3f} against {contest.theirs:.3f} of {contest.other}"
    lost = f", {paired.undefined} draws without a score left out" if paired.undefined else ""
    return f"{scores} on {contest.rows}, difference {contest.ours - contest.theirs:+.3f}{interval}{lost}"


def _numbers(contest: Contest) -> dict[str, Any]:
    paired = contest.paired
    return {
        "other": contest.other,
        "metric": contest.metric,
        "rows": contest.rows,
        "ours": contest.ours,
        "theirs": contest.theirs,
        "low": paired.low,
        "high": paired.high,
        "p": paired.p,
        "test": paired.test,
        "n": paired.n,
        "undefined": paired.undefined,
    }
