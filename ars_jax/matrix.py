"""Which runs an experiment compares: objectives, each with its settings, times folds and seeds."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ars_jax.config import TOLERANCE_MM, Config, Convention, RunConfig, Sides
from ars_jax.errors import UserError
from ars_jax.losses import Objective
from ars_jax.losses._checks import ArgumentError
from ars_jax.ranges import check_config

SHORT_NAMES: Mapping[str, str] = {
    "cross_entropy": "C",
    "dice": "D",
    "baseline": "B",
    "region_specific": "RS",
    "adaptive_region_specific": "ARS",
    "tversky": "Tversky",
    "focal_tversky": "focal Tversky",
    "generalized_dice": "generalised Dice",
    "sensitivity_specificity": "sensitivity-specificity",
}
"""What the tables call the terms of an objective: the paper's names."""


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """What an experiment compares. Every list of settings multiplies the objectives that have the setting.

    Args:
        title: of tables and figures; null takes the name of the folder.
        objectives: terms joined by a plus sign, such as baseline+region_specific; each has its weight in loss.terms,
            or 1.
        seeds: one run for each, of parameters, order, augmentation and dropout; the split stays.
        folds: parts of data.folds that validate in turn; null takes all of them.
        regions: per axis, the paper's DC, of objectives with a regional term; null takes loss.regions.
        penalty_ranges: [A, A + B], lowest and highest adaptive penalty, of objectives with adaptive_region_specific;
            null takes loss.min_penalty and loss.penalty_range.
        region_weights: of the regional terms; null takes their weights in loss.terms, or 1.
        reductions: over regions, of objectives with a regional term; null takes loss.reduction.
        adaptive_gradients: of objectives with adaptive_region_specific; null takes loss.adaptive_gradient.
        extra_arms: further arms by name, each with the keys of loss that differ.
        checkpoint: which parameters are scored; null takes the newest where the validation cases are scored, so that
            none was chosen by the cases that score it, and the best by validation DSC where there are test cases.
        convention: of HD95 and ASD.
        tolerance_mm: of the surface Dice.
    """

    title: str | None = None
    objectives: tuple[str, ...] = (
        "cross_entropy",
        "dice",
        "baseline",
        "baseline+region_specific",
        "baseline+adaptive_region_specific",
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: tuple[int, ...] | None = None
    regions: tuple[int | Sides, ...] | None = None
    penalty_ranges: tuple[tuple[float, float], ...] | None = None
    region_weights: tuple[float, ...] | None = None
    reductions: tuple[Literal["sum", "mean", "class_mean"], ...] | None = None
    adaptive_gradients: tuple[Literal["through", "stop"], ...] | None = None
    extra_arms: dict[str, dict[str, Any]] | None = None
    checkpoint: Literal["best", "newest"] | None = None
    convention: Convention = "paper-boundary"
    tolerance_mm: float = TOLERANCE_MM


@dataclasses.dataclass(frozen=True)
class ArmPlan:
    """One way of training.

    Args:
        name: in tables and figures.
        objective: its terms, joined by a plus sign.
        settings: values of the configuration keys that the experiment lists for this objective.
        loss: the objective.
    """

    name: str
    objective: str
    settings: Mapping[str, Any]
    loss: Objective

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return re.sub(r"[^\w+.]+", "_", self.name).strip("_")


@dataclasses.dataclass(frozen=True)
class TrialPlan:
    """One run of an arm.

    Args:
        arm: the way of training.
        seed: of the training.
        fold: that validates; None without folds.
        config: of the run, whose folder lies in the experiment's.
    """

    arm: ArmPlan
    seed: int
    fold: int | None
    config: Config

    @property
    def folder(self) -> str:
        """The run's folder within the experiment's."""
        return f"runs/{self.arm.folder}/" + ("" if self.fold is None else f"fold{self.fold}_") + f"seed{self.seed}"

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.arm.name}, " + ("" if self.fold is None else f"fold {self.fold}, ") + f"seed {self.seed}"


def plan_trials(config: Config, experiment: ExperimentConfig) -> tuple[TrialPlan, ...]:
    """Lists all runs of an experiment.

    Args:
        config: what all runs share; its `run.dir` is the experiment's folder.
        experiment: what differs.

    Returns:
        The runs; seed by seed, so that an experiment that was interrupted compares all arms on the seeds that it has.

    Raises:
        UserError: an empty or repeated choice, a value out of its range, or folds that the configuration does not have.
    """
    if not 0 <= experiment.tolerance_mm < math.inf:
        wanted, fix = "millimetres, 0 or more", "choose for example 2"
        raise UserError("experiment.tolerance_mm", found=experiment.tolerance_mm, wanted=wanted, fix=fix)
    arms = plan_arms(config.loss, experiment)
    trials = tuple(
        _trial(config, arm, seed, fold)
        for seed, fold, arm in itertools.product(_seeds(experiment), _folds(config, experiment), arms)
    )
    for trial in trials:
        check_config(trial.config)
    return trials


def plan_arms(loss: Objective, experiment: ExperimentConfig) -> tuple[ArmPlan, ...]:
    """Multiplies every objective with the settings that it has, and adds the extra arms.

    An arm is named by every setting that is listed for it, also by a lone one, so that a list that grows later keeps
    the runs that are done.

    Args:
        loss: the settings that the experiment leaves alone.
        experiment: objectives, lists of settings and extra arms.

    Returns:
        The arms in the order of the objectives, each with a name of its own.

    Raises:
        UserError: an empty or repeated choice, an unknown term or key, or a value out of its range.
    """
    arms = []
    for objective in _distinct("objectives", experiment.objectives):
        terms = {term: loss.terms.get(term, 1.0) for term in objective.split("+")}
        plain = _changed("objectives", loss, {"terms": terms})
        choices = [_choices(key, experiment, plain) for key in _SETTINGS]
        for combination in itertools.product(*choices):
            settings = {key: value for chosen in combination for key, value in chosen.items()}
            changed = _changed("objectives", plain, _fields(plain, settings))
            words = [_words(chosen, changed) for chosen in combination if chosen]
            arms.append(ArmPlan(", ".join([short_name(terms), *words]), objective, settings, changed))
    for name, keys in (experiment.extra_arms or {}).items():
        changed = _changed(f"extra_arms.{name}", loss, keys)
        arms.append(ArmPlan(name, changed.name, {f"loss.{key}": value for key, value in keys.items()}, changed))
    _distinct("extra_arms", tuple(arm.folder for arm in arms))
    return tuple(arms)


def short_name(terms: Iterable[str]) -> str:
    """Returns what tables call an objective, such as B+ARS."""
    return "+".join(SHORT_NAMES.get(term, term.replace("_", " ")) for term in terms)


def _changed(key: str, loss: Objective, fields: Mapping[str, Any]) -> Objective:
    """Returns the objective with other fields."""
    try:
        return dataclasses.replace(loss, **fields)
    except ArgumentError as error:
        name = f"experiment.{key}, loss.{error.name}"
        raise UserError(name, found=error.found, wanted=error.wanted, fix="correct it") from error
    except TypeError as error:
        wanted = "fitting keys and values of loss"
        raise UserError(f"experiment.{key}", found=error, wanted=wanted, fix="see ars-jax train --help") from error


def _fields(loss: Objective, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turns settings by configuration key into fields; a weight changes its term only."""
    fields = {key.removeprefix("loss."): value for key, value in settings.items()}
    weights = {key: fields.pop(key) for key in list(fields) if key.startswith("terms.")}
    if weights:
        fields["terms"] = {**loss.terms, **{key.removeprefix("terms."): value for key, value in weights.items()}}
    return fields


ADAPTIVE_TERM = "adaptive_region_specific"
_SETTINGS = ("regions", "penalty_ranges", "region_weights", "reductions", "adaptive_gradients")
"""Lists of settings; `penalty_ranges` and `adaptive_gradients` belong to the adaptive term, the others to both."""


def _choices(key: str, experiment: ExperimentConfig, loss: Objective) -> list[dict[str, Any]]:
    """The values of one setting for an objective, as configuration keys; one empty choice where it stays as it is."""
    values = getattr(experiment, key)
    adaptive = key in ("penalty_ranges", "adaptive_gradients")
    if values is None or not (ADAPTIVE_TERM in loss.terms if adaptive else loss.regional_terms):
        return [{}]
    if key == "regions":
        _distinct(key, tuple((value,) * 3 if isinstance(value, int) else value for value in values))
    return [_as_keys(key, value, loss) for value in _distinct(key, values)]


def _as_keys(key: str, value: Any, loss: Objective) -> dict[str, Any]:
    if key == "region_weights":
        return {f"loss.terms.{term}": value for term in loss.regional_terms}
    if key != "penalty_ranges":
        names = {"regions": "regions", "reductions": "reduction", "adaptive_gradients": "adaptive_gradient"}
        return {f"loss.{names[key]}": value}
    low, high = value
    if not (0 <= low <= high < math.inf and high > 0):
        raise UserError(
            "experiment.penalty_ranges", found=[low, high], wanted="0 <= A <= A + B, above 0", fix="correct it"
        )
    return {"loss.min_penalty": low, "loss.penalty_range": round(high - low, 12)}


def _words(chosen: Mapping[str, Any], loss: Objective) -> str:
    """One setting as the name of an arm says it."""
    ((key, value), *_) = chosen.items()
    if key == "loss.min_penalty":
        return f"[{loss.min_penalty:.12g}, {loss.min_penalty + loss.penalty_range:.12g}]"
    if key == "loss.regions":
        return f"DC {value}" if isinstance(value, int) else "DC " + "x".join(map(str, value))
    if key.startswith("loss.terms."):
        return f"weight {value:.12g}"
    return str(value).replace("_", " ")


def _seeds(experiment: ExperimentConfig) -> Iterable[int]:
    return _distinct("seeds", experiment.seeds)


def _folds(config: Config, experiment: ExperimentConfig) -> Iterable[int | None]:
    if config.data.folds is None:
        if experiment.folds is not None:
            fix = "set data.folds, or leave out experiment.folds"
            raise UserError("experiment.folds", found=experiment.folds, wanted="a cross-validation", fix=fix)
        return (None,)
    return range(config.data.folds) if experiment.folds is None else _distinct("folds", experiment.folds)


def _distinct(key: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or len(set(values)) < len(values):
        raise UserError(
            f"experiment.{key}", found=list(values), wanted="one or more different values", fix="correct them"
        )
    return values


def _trial(config: Config, arm: ArmPlan, seed: int, fold: int | None) -> TrialPlan:
    folder = config.run.dir
    data = dataclasses.replace(config.data, cache=config.data.cache or folder / "cache")
    if fold is not None:
        data = dataclasses.replace(data, fold=fold)
    train = dataclasses.replace(config.train, seed=seed)
    trial = TrialPlan(arm, seed, fold, config)
    run = RunConfig(folder / trial.folder)
    return dataclasses.replace(
        trial, config=dataclasses.replace(config, data=data, loss=arm.loss, train=train, run=run)
    )
