"""Which runs an experiment compares: objectives, each with its settings, times folds and seeds."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ars_jax.config import TOLERANCE_MM, Config, Convention, LossConfig, Objective, RunConfig, Sides
from ars_jax.errors import UserError
from ars_jax.ranges import check_config

NAMES: Mapping[Objective, str] = {
    "cross_entropy": "C",
    "dice": "D",
    "baseline": "B",
    "baseline+rs": "B+RS",
    "baseline+ars": "B+ARS",
    "focal_tversky": "focal Tversky",
    "generalized_dice": "generalised Dice",
    "sensitivity_specificity": "sensitivity-specificity",
}
"""What the tables call the objectives; the paper's names of the five."""


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """What an experiment compares. Every list of settings multiplies the objectives that have the setting.

    Args:
        title: of tables and figures; null takes the name of the folder.
        objectives: the losses.
        seeds: one run for each, of parameters, order, augmentation and dropout; the split stays.
        folds: parts of data.folds that validate in turn; null takes all of them.
        divisions: DC, regions per axis, of rs and ars; null takes loss.grid.
        ranges: [A, A + B], lowest and highest adaptive penalty, of ars; null takes loss.a and loss.b.
        region_weights: of the regional term of rs and ars; null takes loss.region_weight.
        reductions: of the regional term of rs and ars; null takes loss.reduction.
        adaptive_gradients: of ars; null takes loss.adaptive_gradient.
        checkpoint: which parameters are scored; null takes the newest where the validation cases are scored, so that
            none was chosen by the cases that score it, and the best by validation DSC where there are test cases.
        convention: of HD95 and ASD.
        tolerance_mm: of the surface Dice.
    """

    title: str | None = None
    objectives: tuple[Objective, ...] = ("cross_entropy", "dice", "baseline", "baseline+rs", "baseline+ars")
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: tuple[int, ...] | None = None
    divisions: tuple[int | Sides, ...] | None = None
    ranges: tuple[tuple[float, float], ...] | None = None
    region_weights: tuple[float, ...] | None = None
    reductions: tuple[Literal["sum", "mean", "class_mean"], ...] | None = None
    adaptive_gradients: tuple[Literal["through", "stop"], ...] | None = None
    checkpoint: Literal["best", "newest"] | None = None
    convention: Convention = "paper-boundary"
    tolerance_mm: float = TOLERANCE_MM


@dataclasses.dataclass(frozen=True)
class ArmPlan:
    """One way of training.

    Args:
        name: in tables and figures.
        objective: of the loss.
        settings: values of the configuration keys that the experiment lists for this objective.
        loss: the configuration of the loss.
    """

    name: str
    objective: Objective
    settings: Mapping[str, Any]
    loss: LossConfig

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


def plan_arms(loss: LossConfig, experiment: ExperimentConfig) -> tuple[ArmPlan, ...]:
    """Multiplies every objective with the settings that it has.

    An arm is named by every setting that is listed for it, also by a lone one, so that a list that grows later keeps
    the runs that are done.

    Args:
        loss: the settings that the experiment leaves alone.
        experiment: objectives and lists of settings.

    Returns:
        The arms in the order of the objectives, each with a name of its own.

    Raises:
        UserError: an empty or repeated choice.
    """
    arms = []
    for objective in _distinct("objectives", experiment.objectives):
        choices = [_choices(key, experiment, objective) for key in _SETTINGS]
        for combination in itertools.product(*choices):
            settings = {key: value for chosen in combination for key, value in chosen.items()}
            fields = {key.removeprefix("loss."): value for key, value in settings.items()}
            if "loss.grid" in settings:
                fields["region_size"] = None
            changed = dataclasses.replace(loss, objective=objective, **fields)
            words = [_words(chosen, changed) for chosen in combination if chosen]
            arms.append(ArmPlan(", ".join([NAMES[objective], *words]), objective, settings, changed))
    return tuple(arms)


_SETTINGS: Mapping[str, tuple[Objective, ...]] = {
    "divisions": ("baseline+rs", "baseline+ars"),
    "ranges": ("baseline+ars",),
    "region_weights": ("baseline+rs", "baseline+ars"),
    "reductions": ("baseline+rs", "baseline+ars"),
    "adaptive_gradients": ("baseline+ars",),
}
"""Which objectives have a setting."""


def _choices(key: str, experiment: ExperimentConfig, objective: Objective) -> list[dict[str, Any]]:
    """The values of one setting for an objective, as configuration keys; one empty choice where it stays as it is."""
    values = getattr(experiment, key)
    if values is None or objective not in _SETTINGS[key]:
        return [{}]
    if key == "divisions":
        _distinct(key, tuple((value,) * 3 if isinstance(value, int) else value for value in values))
    return [_as_keys(key, value) for value in _distinct(key, values)]


def _as_keys(key: str, value: Any) -> dict[str, Any]:
    if key != "ranges":
        names = {"divisions": "grid", "region_weights": "region_weight", "reductions": "reduction"}
        return {f"loss.{names.get(key, 'adaptive_gradient')}": value}
    low, high = value
    if not (0 <= low <= high < math.inf and high > 0):
        raise UserError("experiment.ranges", found=[low, high], wanted="0 <= A <= A + B, above 0", fix="mend it")
    return {"loss.a": low, "loss.b": round(high - low, 12)}


def _words(chosen: Mapping[str, Any], loss: LossConfig) -> str:
    """One setting as the name of an arm tells it."""
    ((key, value), *_) = chosen.items()
    if key == "loss.a":
        return f"[{loss.a:.12g}, {loss.a + loss.b:.12g}]"
    if key == "loss.grid":
        return f"DC {value}" if isinstance(value, int) else "DC " + "x".join(map(str, value))
    if key == "loss.region_weight":
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
        raise UserError(f"experiment.{key}", found=list(values), wanted="one or more different values", fix="mend them")
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
