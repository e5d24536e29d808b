"""An experiment: the schema of one file in ``experiments/``, and the parts it is built into."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from fusion_lab.config import Config, as_json, assign, faulty_paths, flatten, load_yaml, nearest, validate
from fusion_lab.contracts import ConfigError, Dataset, Folds, Spec, content_hash
from fusion_lab.data import DOMAINS
from fusion_lab.data.activity.settings import ActivityConfig
from fusion_lab.data.editing.settings import EditingConfig
from fusion_lab.data.molecules.settings import MoleculesConfig
from fusion_lab.data.oncology.settings import OncologyConfig
from fusion_lab.data.portions import targets_of
from fusion_lab.data.raw import Records
from fusion_lab.data.relapse.settings import RelapseConfig
from fusion_lab.data.scaling import Scaler, ScalingConfig
from fusion_lab.data.splits import TRANSDUCTIVE, FoldsConfig, make_folds
from fusion_lab.data.subset import sampled
from fusion_lab.data.synthetic import SyntheticConfig
from fusion_lab.data.table import TableConfig
from fusion_lab.evaluation.gates import PromotionConfig
from fusion_lab.evaluation.settings import EvaluationConfig
from fusion_lab.objectives import Objective, ObjectiveConfig
from fusion_lab.training.augmentation import AugmentationConfig, check_augmentation
from fusion_lab.training.execution import check_stackable
from fusion_lab.training.monitor import undefined_folds
from fusion_lab.training.optimiser import OptimiserConfig
from fusion_lab.training.plan import Groups, Plan, TrainingConfig
from fusion_lab.zoo import FAMILIES, hcat, multitrack, task_mil
from fusion_lab.zoo.hcat import HcatConfig
from fusion_lab.zoo.multitrack import MultitrackConfig
from fusion_lab.zoo.sensor_fusion import SensorFusionConfig
from fusion_lab.zoo.task_mil import TaskMilConfig
from fusion_lab.zoo.token_fusion import TokenFusionConfig

DataConfig = Annotated[
    SyntheticConfig | TableConfig | ActivityConfig | OncologyConfig | MoleculesConfig | EditingConfig | RelapseConfig,
    Field(discriminator="domain"),
]
ModelConfig = Annotated[
    TokenFusionConfig | SensorFusionConfig | HcatConfig | TaskMilConfig | MultitrackConfig,
    Field(discriminator="family"),
]

SECTION_SWITCHES = {"model": "family", "data": "domain"}
"""Sections whose other settings mean nothing once this key changes: setting it resets the section to its defaults."""

PRESETS = {"hcat": hcat.REFERENCE, "multitrack": multitrack.REFERENCE, "task_mil": task_mil.REFERENCE}
"""The settings of each family that a preset gives."""

BESIDE = ("name", "description", "selected", "final", "promotion", "evaluation")
"""Settings that change nothing of what a cross-validation computes."""

SHORT_NAMES = {
    **{
        name: f"model.{name}"
        for name in (
            "moddrop",
            "moddrop_mode",
            "emb_noise",
            "n_impute_iterations",
            "alpha_con",
            "alpha_kl",
            "alpha_impute",
            "contrastive_temp",
        )
    },
    "alpha_surv": "objective.task_weights.survival",
    "alpha_rec": "objective.task_weights.recurrence",
    "mc_samples": "evaluation.mc_samples",
}
"""Options by the names that users of EnhancedHCAT know, in a file or on the command line, and where they are kept."""

LONGEST_NAME = 200


class Experiment(Config):
    """Data, model, objective, optimiser, folds and seed: everything that decides what comes out.

    ``trial`` is the number of the stream of randomness, so that the best configuration of a search is reproduced bit
    by bit. ``selected`` names the study that chose this configuration: its out-of-fold scores are optimistic, and are
    labelled so. ``final`` says what is registered: the ensemble of the folds' models, or one model trained anew on all
    rows that are not locked away, for the median of the folds' best epochs; ``promotion`` what it has to pass.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    description: str = ""
    data: DataConfig
    model: ModelConfig = TokenFusionConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    scaling: ScalingConfig = ScalingConfig()
    folds: FoldsConfig = FoldsConfig()
    baselines: bool = True
    evaluation: EvaluationConfig = EvaluationConfig()
    final: Literal["ensemble", "refit"] = "ensemble"
    promotion: PromotionConfig = PromotionConfig()
    seed: int = Field(0, ge=0)
    trial: int = Field(0, ge=0)
    selected: str | None = None

    @model_validator(mode="after")
    def _protocol_allows(self) -> Experiment:
        personal = isinstance(self.data, RelapseConfig) and self.data.normalise == "patient"
        if personal and self.folds.protocol != TRANSDUCTIVE:
            where = f"expected none or past under folds.protocol {self.folds.protocol}"
            why = f"it looks at days of patients who are tested, which {TRANSDUCTIVE} alone allows"
            raise ValueError(f"data.normalise: {where}, found 'patient': {why}")
        return self

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as plain values: what is logged, and what a file of it reads back to."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The settings that decide what comes out, whatever it is called and wherever its files lie."""
        settings = {k: v for k, v in self.resolved().items() if k not in BESIDE}
        settings["data"].pop("root", None)
        for beside in ("checkpoints", "curves"):  # what is kept, and decides nothing
            settings["training"].pop(beside)
        return settings


def find(kind: str, name: str) -> Path:
    """The file of an experiment or search space (``kind``: "experiments" or "hpo"), by name or by path.

    Names are looked up in the working directory, then in the project this package lies in.

    Raises:
        ConfigError: there is none; the nearest name is suggested.
    """
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"{kind}: expected a name or path of at most {LONGEST_NAME} characters, found {len(name)}")
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    folders = [Path(kind), Path(__file__).parent.parent / kind]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise ConfigError(
        f"{kind}/{name}.yaml: expected a file in {kind}/, found none named {name!r}{nearest(name, known)}"
    )


def read_experiment(name: str, overrides: Mapping[str, Any] | None = None, data: str | None = None) -> Experiment:
    """An experiment from its file, with the command line's settings over it.

    Args:
        name: a name in ``experiments/`` or a path.
        overrides: ``{dotted path: value}``.
        data: folder of the input files, in place of the file's ``data.root``.
    """
    tree, path = experiment_tree(name, overrides, data)
    try:
        return resolve(tree, str(path))
    except ConfigError as error:
        several = list_valued(tree)
        if not several:
            raise
        raise ConfigError(f"{error} (several values of {', '.join(several)}: that is a sweep)") from None


def experiment_tree(
    name: str, overrides: Mapping[str, Any] | None = None, data: str | None = None
) -> tuple[dict[str, Any], Path]:
    """The settings that :func:`read_experiment` reads, before they are checked, and the file that they are from.

    Raises:
        ConfigError: no such file, or settings that no text can hold (:func:`~fusion_lab.config.as_json`).
    """
    path = find("experiments", name)
    tree = {"name": path.stem, **load_yaml(path)}
    if data:
        _set_root(tree, data, path)
    given = override(tree, overrides or {})
    as_json(given, str(path))
    return given, path


def list_valued(tree: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists of settings that stand where one value is asked for, by dotted path, in the order of the tree; where a
    list is asked for, lists of lists.

    >>> list_valued({"name": "x", "data": {"domain": "synthetic"}, "optimiser": {"lr": [1e-3, 1e-2]}, "seed": 1})
    {'optimiser.lr': [0.001, 0.01]}
    """
    lists = {path: value for path, value in flatten(tree).items() if isinstance(value, list) and value}
    found = {f"{section}.{key}" for section, key in SECTION_SWITCHES.items()} & lists.keys()
    while True:
        single = deepcopy(dict(tree))
        for path in found:
            assign(single, path, lists[path][0])
        if isinstance(single.get("model"), dict):
            single["model"].setdefault("family", "token_fusion")
        faulty = faulty_paths(Experiment, single)
        more = {path for path, value in lists.items() if path not in found and _asks_for_one(path, value, faulty)}
        if not more:
            return {path: value for path, value in lists.items() if path in found}
        found |= more


def _asks_for_one(path: str, value: list[Any], faulty: set[str]) -> bool:
    inside = all(isinstance(option, list) for option in value) and any(f.startswith(f"{path}.") for f in faulty)
    return path in faulty or inside


def override(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with dotted overrides; a new ``model.family`` or ``data.domain`` starts its section anew.

    >>> override({"model": {"family": "a", "d_model": 8}}, {"model.depth": 2, "model.family": "b"})
    {'model': {'family': 'b', 'depth': 2}}
    """
    changed, overrides = deepcopy(dict(tree)), _spelled_out(overrides)
    for name in SHORT_NAMES.keys() & changed.keys():
        if _holds(changed, SHORT_NAMES[name]):
            raise ConfigError(f"{name}: expected this or {SHORT_NAMES[name]}, which is the same setting, found both")
        assign(changed, SHORT_NAMES[name], changed.pop(name))
    _leave_preset(changed, overrides)
    switches = [f"{section}.{key}" for section, key in SECTION_SWITCHES.items()]
    for path in switches:
        if path in overrides:
            section, key = path.split(".")
            before = changed.get(section)
            if not isinstance(before, dict) or before.get(key) != overrides[path]:
                changed[section] = {key: overrides[path]}
    for path, value in overrides.items():
        if path not in switches:
            assign(changed, path, deepcopy(value))
    return changed


def _holds(tree: Mapping[str, Any], path: str) -> bool:
    node: Any = tree
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True


def _leave_preset(tree: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Takes the sizes of a model's preset out of the tree where another preset is asked for."""
    model, asked = tree.get("model"), overrides.get("model.preset")
    family = model.get("family") if isinstance(model, dict) else None
    if asked is None or not isinstance(model, dict) or family not in PRESETS:
        return
    if model.get("preset", FAMILIES[family].Config.model_fields["preset"].default) != asked:
        tree["model"] = {key: value for key, value in model.items() if key not in PRESETS[family]}


def _spelled_out(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Short names as the paths that they stand for.

    Raises:
        ConfigError: a setting is given by both.
    """
    twice = next((name for name in overrides if name in SHORT_NAMES and SHORT_NAMES[name] in overrides), None)
    if twice is not None:
        raise ConfigError(f"{twice}: expected this or {SHORT_NAMES[twice]}, which is the same setting, found both")
    return {SHORT_NAMES.get(path, path): value for path, value in overrides.items()}


def resolve(tree: Mapping[str, Any], source: str) -> Experiment:
    """A tree of settings as an experiment; a model or data section without its key gets the one there is by default."""
    filled = deepcopy(dict(tree))
    if isinstance(filled.get("model"), dict):
        filled["model"].setdefault("family", "token_fusion")
        _check_family(filled["model"]["family"], source)
    return validate(Experiment, filled, source)


def _check_family(family: object, source: str) -> None:
    if not isinstance(family, str) or family not in FAMILIES:
        raise ConfigError(f"{source}: model.family: unknown {family!r}{nearest(str(family), list(FAMILIES))}")


def _set_root(tree: dict[str, Any], data: str, path: Path) -> None:
    section = tree.get("data")
    domain = section.get("domain") if isinstance(section, dict) else None
    if isinstance(domain, str) and domain in DOMAINS and "root" not in DOMAINS[domain].config.model_fields:
        raise ConfigError(f"data: {path} makes its own data ({domain}) and takes no folder, found {data!r}")
    assign(tree, "data.root", data)


class Materials:
    """The data set and folds that all configurations of one study share, and the plans made of them."""

    def __init__(self, dataset: Dataset, folds: Folds) -> None:
        self.dataset = dataset
        self.folds = folds
        self._scaler = lru_cache(maxsize=4)(self._fit_scaler)

    @classmethod
    def load(cls, experiment: Experiment) -> Materials:
        """Reads the data and splits it.

        Raises:
            DataError: an input that cannot be used, or an impossible split.
        """
        torch.set_num_threads(1)
        dataset = DOMAINS[experiment.data.domain].load(experiment.data)
        return cls(dataset, make_folds(experiment.folds, dataset))

    def sampled(self, rows: int, config: FoldsConfig) -> Materials:
        """About so many of the rows, by the split's seed, in folds of their own.

        Raises:
            DataError: there are not more rows than that, or they cannot be split.
        """
        some = sampled(self.dataset, rows, config.seed)
        return Materials(some, make_folds(config, some))

    @property
    def spec(self) -> Spec:
        """That of the data set, with the number of its groups."""
        group = self.dataset.group
        return self.dataset.spec if group is None else replace(self.dataset.spec, groups=len(np.unique(group)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores should know of the data and of the split."""
        return (*self.dataset.provenance.notes, *self.folds.notes)

    def plan(self, experiment: Experiment) -> Plan:
        """The parts of one configuration, built; ``experiment.data`` and ``folds`` must be those the materials were
        loaded from.
        """
        family = FAMILIES[experiment.model.family]
        return Plan(
            build_model=lambda: family(experiment.model, self.spec),
            dataset=self.dataset,
            folds=self.folds,
            scaler=self._scaler(experiment.scaling),
            objective=Objective(experiment.objective, self.spec, family.penalties),
            optimisers=(experiment.optimiser,) * len(self.folds),
            training=experiment.training,
            augmentation=experiment.augmentation,
            seed=experiment.seed,
            trial=experiment.trial,
            fingerprint=self.fingerprint(experiment),
            groups=self._groups(experiment),
        )

    def _groups(self, experiment: Experiment) -> Groups | None:
        """What the rows' groups are, for a model that is trained not to know them."""
        model = experiment.model
        if not isinstance(model, TokenFusionConfig) or not model.adversary:
            return None
        if self.dataset.group is None:
            raise ConfigError("model.adversary: expected data with groups (data.group), found none")
        return Groups.of(self.dataset.group, model.adversary_warmup)

    def check(self, experiment: Experiment) -> None:
        """Everything of a configuration that can be found wrong before anything is trained or written.

        Raises:
            ConfigError: a device that is not there, a setting that does not fit the data's tasks or modalities.
            DataError: a validation part on which the watched score is undefined, where the configuration refuses that.
        """
        plan = self.plan(experiment)
        plan.training.pick_device()
        plan.build_model()
        check_stackable(plan)
        check_augmentation(self.spec, experiment.augmentation)
        undefined_folds(self.spec, experiment.training, self.folds, targets_of(self.dataset))

    def fingerprint(self, experiment: Experiment) -> str:
        """Identity of what a configuration will compute here: settings, data and split."""
        return content_hash([experiment.identity(), self.dataset.provenance.digest, self.folds.digest])

    def records(self, experiment: Experiment) -> Records:
        """The same rows as they were before encoding, in the same order."""
        return DOMAINS[experiment.data.domain].records(experiment.data)

    def scaler(self, config: ScalingConfig) -> Scaler:
        """The folds' statistics, fitted once per setting."""
        return self._scaler(config)

    def _fit_scaler(self, config: ScalingConfig) -> Scaler:
        return Scaler.fit(self.dataset, self.folds.fit, config)
