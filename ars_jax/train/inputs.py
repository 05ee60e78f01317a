"""From the configuration to prepared cases: finding, splitting, preparing, and the plan that fits them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ars_jax.config import Config, Role, make_plan
from ars_jax.data.augment import X_AXIS, Augmentation
from ars_jax.data.cache import cache_key, image_digest, load_sample, sample_labelled, sample_shape
from ars_jax.data.cases import Case, Dataset
from ars_jax.data.layouts import find_dataset
from ars_jax.data.plan import Plan, Sample, read_plan
from ars_jax.data.prepare import complete_plan, prepare_dataset
from ars_jax.data.sides import mirror_name
from ars_jax.data.splits import ROLES, CaseSplit, split_cases
from ars_jax.errors import UserError
from ars_jax.files import read_json, write_json
from ars_jax.models import STRIDE
from ars_jax.processes import count, from_first, index

Progress = Callable[[int, int, str], None]
Split = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Inputs:
    """What a training trains on.

    Attributes:
        plan: with its canvas.
        files: prepared training cases on disk.
        training: the same in memory; empty where several processes train, each of which reads what it needs.
        validation: prepared validation cases; of several processes each has its share, the first one the first case.
        largest: voxels z, y, x that hold every prepared training case.
        partly_labelled: whether some training case says that an organ was not drawn.
        split: "train", "validation" and, if cases were kept for it, "test": each the names of its cases with the hash
            of what they are prepared from; and "images": the names of training and validation cases with the hash of
            their image's bytes alone. Test cases are hashed and nothing else.
        unused: labelled cases of the data set in none of these roles.
    """

    plan: Plan
    files: tuple[Path, ...]
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    largest: tuple[int, int, int]
    partly_labelled: bool
    split: Split
    unused: int = 0


def find_cases(config: Config) -> tuple[Dataset, CaseSplit]:
    """Finds a configuration's data set and splits it; reads names only.

    Args:
        config: the configuration.

    Returns:
        The data set, and its cases for training, validation and test.

    Raises:
        UserError: no data set there, or a split that does not fit it.
    """
    data = config.data
    dataset = find_dataset(data.root, layout=data.layout, labels=data.labels)
    cases = split_cases(
        dataset,
        split=data.split,
        sizes=data.split_sizes,
        folds=data.folds,
        fold=data.fold,
        validation_fraction=data.validation_fraction,
        seed=data.split_seed,
    )
    return dataset, cases


def cache_folder(config: Config) -> Path:
    """Returns the folder of the prepared cases."""
    return config.data.cache or config.run.dir / "cache"


def prepare_inputs(
    config: Config, progress: Progress | None = None, say: Callable[[str], None] = lambda _: None
) -> Inputs:
    """Prepares the training and validation cases of a configuration into its cache and loads them.

    Of several processes the first prepares them, in a cache that all can read.

    Args:
        config: the configuration.
        progress: called after every case with the number done, the number of all and the name.
        say: is told whom it waits for.

    Returns:
        The prepared cases.

    Raises:
        UserError: the first faulty file, or values that contradict each other.
    """
    dataset, cases = find_cases(config)
    plan = make_plan(config, tuple(dataset.labels), STRIDE)
    paths, split = from_first(lambda: _prepare(dataset, cases, plan, cache_folder(config), progress, say))
    files = tuple(map(Path, paths))
    train_files, validation_files = files[: len(cases.training)], files[len(cases.training) :]
    z, y, x = (max(sides) for sides in zip(*map(sample_shape, train_files), strict=True))
    return Inputs(
        complete_plan(plan, train_files),
        train_files,
        tuple(map(load_sample, train_files)) if count() == 1 else (),
        tuple(map(load_sample, validation_files[index() :: count()])),
        (z, y, x),
        not all(all(sample_labelled(file)) for file in train_files),
        split,
        sum(case.labelled for case in dataset.cases) - sum(map(len, cases)),
    )


def _prepare(
    dataset: Dataset, cases: CaseSplit, plan: Plan, cache: Path, progress: Progress | None, say: Callable[[str], None]
) -> tuple[list[str], Split]:
    """Prepares training and validation cases; returns their files, and the split with its hashes."""
    seen = (*cases.training, *cases.validation)
    prepared = prepare_dataset(seen, dataset.labels, plan, cache, progress, say)
    keys = {case.name: item.source.key for case, item in zip(seen, prepared, strict=True)}
    keys |= {case.name: cache_key(case, dataset.labels, plan) for case in cases.test}
    split = {
        role: {case.name: keys[case.name] for case in part} for role, part in zip(ROLES, cases, strict=True) if part
    }
    split["images"] = {case.name: item.source.image for case, item in zip(seen, prepared, strict=True)}
    return [str(item.path) for item in prepared], split


def write_split(path: Path, split: Split) -> None:
    """Writes which cases train, validate and test, and the hashes of their images, as JSON."""
    write_json(path, split)


def read_split(path: Path) -> Split:
    """Reads what `write_split` wrote.

    Args:
        path: split.json of a run.

    Returns:
        "train", "validation" and maybe "test", each names with hashes, and "images" unless the run is older than it.

    Raises:
        UserError: no such file, or another one.
    """
    split = read_json(path)
    needed = {"train", "validation"}
    if not (
        isinstance(split, dict)
        and needed <= set(split)
        and all(
            isinstance(part, dict) and all(isinstance(key, str) for key in part.values()) for part in split.values()
        )
    ):
        wanted = '{"train": {"case": "hash"}, "validation": ...}'
        raise UserError(path, found="something else", wanted=wanted, fix="restore the file that training wrote")
    return split


def scored_role(run: Path, cases: Role | None = None) -> Role:
    """Says which cases of a run's own data set are scored.

    Args:
        run: the run's folder.
        cases: what is asked for; None takes the test cases if the run has some, else the validation cases.

    Returns:
        The role of these cases in the run's split.json.

    Raises:
        UserError: test cases of a run that has none.
    """
    tested = bool(read_split(run / "split.json").get("test"))
    if cases == "test" and not tested:
        fix = "train with data.split_sizes or a split file that names some, or score --cases validation"
        raise UserError(run / "split.json", found="no test cases", wanted="cases kept for the test", fix=fix)
    return cases or ("test" if tested else "validation")


def scored_cases(
    run: Path,
    config: Config,
    root: Path | None,
    cases: Role | None = None,
    checkpoint: Literal["best", "newest"] = "best",
) -> tuple[Dataset, tuple[Case, ...], int]:
    """Finds the cases that a run may honestly be scored on.

    A case was seen if the run saw an image of the same bytes, under whatever name. The same voxels in another file,
    compressed or converted, are not recognised, nor another image of the same patient. A run whose split.json is older
    than "images" knows only cases whose name, files and labels are all as they were.

    Args:
        run: the run's folder.
        config: its configuration.
        root: another data set than the run's own; its cases that the run has seen are left out.
        cases: of the run's own data set, see `scored_role`.
        checkpoint: the best has seen the validation cases, which chose it, as well as the training cases.

    Returns:
        The data set, the run's test or validation cases or the other data set's labelled cases, and how many were left
        out.

    Raises:
        UserError: a case is not there any more, no case is left, or both `root` and `cases` are given.
    """
    if root is None:
        return _own_cases(run, config, scored_role(run, cases))
    if cases is not None:
        found, wanted = f"--cases {cases} of another data set", "one of --cases and --data"
        raise UserError("ars-jax evaluate", found=found, wanted=wanted, fix="leave one out")
    dataset, plan = find_dataset(root, labels=config.data.labels), read_plan(run / "plan.json")
    labelled = [case for case in dataset.cases if case.labelled]
    split = read_split(run / "split.json")
    names = {**split["train"], **(split["validation"] if checkpoint == "best" else {})}
    if "images" in split:
        seen = {split["images"].get(name) for name in names}
        unseen = tuple(case for case in labelled if image_digest(case) not in seen)
    else:
        seen = set(names.values())
        unseen = tuple(case for case in labelled if cache_key(case, dataset.labels, plan) not in seen)
    if not unseen:
        found = f"{len(labelled)} labelled cases, of which the run was trained on or chosen by all"
        raise UserError(root, found=found, wanted="cases that it has not seen", fix="leave out --data, or name others")
    return dataset, unseen, len(labelled) - len(unseen)


def _own_cases(run: Path, config: Config, role: Role) -> tuple[Dataset, tuple[Case, ...], int]:
    """The cases that the run's split.json names, of the data set as it is now."""
    names = read_split(run / "split.json")[role]
    dataset = find_dataset(config.data.root, layout=config.data.layout, labels=config.data.labels)
    known = {case.name: case for case in dataset.cases if case.labelled}
    if missing := [name for name in names if name not in known]:
        found = f"no labelled case {', '.join(missing)}"
        fix = "restore them, or score another data set with --data DIR"
        raise UserError(dataset.root, found=found, wanted=f"the run's {role} cases", fix=fix)
    return dataset, tuple(known[name] for name in names), 0


def make_augmentation(config: Config, plan: Plan) -> Augmentation:
    """Joins the configured ranges and the plan's left and right organs.

    Args:
        config: the configuration.
        plan: names the organs and their pairs.

    Returns:
        The augmentation.

    Raises:
        UserError: the left-right axis is flipped, but an organ with a mirror image in the plan has no pair.
    """
    if config.augment.flip[X_AXIS]:
        _check_pairs(plan)
    channel = {organ: number for number, organ in enumerate(plan.labels, start=1)}
    swap = tuple((channel[left], channel[right]) for left, right in plan.pairs)
    augment = config.augment
    return Augmentation(
        augment.flip, augment.translate, augment.scale, augment.intensity_shift, augment.intensity_scale, swap
    )


def _check_pairs(plan: Plan) -> None:
    """Raises where a flip along x would leave a left organ called left."""
    paired = {organ for pair in plan.pairs for organ in pair}
    by_name = {organ.lower(): organ for organ in plan.labels}
    for organ in plan.labels:
        other = by_name.get(mirror_name(organ))
        if other is not None and other != organ and not {organ, other} <= paired:
            fix = f"--data.pairs '[[{organ}, {other}]]', or do not flip the last of augment.flip"
            raise UserError(
                "data.pairs", found=f"a flip along x, {organ} and {other} unpaired", wanted="pairs", fix=fix
            )
