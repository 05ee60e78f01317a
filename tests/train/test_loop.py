"""Whole trainings: interrupted and resumed, refused, and what they write down."""

import contextlib
import functools
import io
import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from ars_jax.checkpoint import checkpoints, restore
from ars_jax.cli import main
from ars_jax.data.loader import Batch
from ars_jax.data.plan import Sample, read_plan
from ars_jax.data.volumes import Volume, read_volume, write_volume
from ars_jax.errors import DivergedError, UserError
from ars_jax.gradients.maps import region_maps
from ars_jax.locks import locked
from ars_jax.losses import Objective
from ars_jax.mesh import make_mesh, replicated
from ars_jax.options import read_config
from ars_jax.predict import load_network, make_model, predict_logits
from ars_jax.report.runs import latest_steps, read_metrics
from ars_jax.train import compile, loop
from ars_jax.train.inputs import make_augmentation
from ars_jax.train.maps import write_maps
from ars_jax.train.record import Recorder
from ars_jax.train.state import checkpoint_items, create_state
from ars_jax.train.step import make_optimizer
from tests.data.synthetic import LABELS, PLAN
from tests.objectives import ARS
from tests.small_runs import (
    OPTIONS,
    SmallRun,
    files_of,
    lines_of,
    quick_compilation,
    random_network,
    trained_run,
    write_config,
    write_data_set,
)

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def straight(base: Path) -> SmallRun:
    """Four epochs of two steps without interruption; checkpoints after steps 4 and 8."""
    return trained_run(base)


def main_shown(*words: object, shown: io.StringIO | None = None) -> tuple[int, str]:
    """The status of a command and what it showed as an error; what else it showed goes to `shown`."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(shown or io.StringIO()):
        return main([str(word) for word in words]), errors.getvalue()


@contextlib.contextmanager
def batches_with(change: Callable[[int, Batch], Batch]) -> Iterator[None]:
    """Has the training see other batches; the first is number 0."""
    real = loop.batches

    def changed(*arguments: Any, start: int, **options: Any) -> Iterator[Batch]:
        for number, batch in enumerate(real(*arguments, start=start, **options), start):
            yield change(number, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "batches", changed)
        yield


def terminated(number: int, batch: Batch) -> Batch:
    if number == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return batch


def stalling(folder: Path) -> Callable[[int, Batch], Batch]:
    """Has the second batch come only after it was told that it does not."""

    def changed(number: int, batch: Batch) -> Batch:
        for _ in range(6000 if number == 1 else 0):
            if any(line["kind"] == "stall" and line["at"] == "waiting for a batch" for line in lines_of(folder)):
                return batch
            time.sleep(0.01)
        assert number != 1, "nothing was told"
        return terminated(number, batch)

    return changed


def interrupted(number: int, batch: Batch) -> Batch:
    if number == 6:
        raise KeyboardInterrupt
    return batch


def poisoned(number: int, batch: Batch) -> Batch:
    return Batch({**batch, "image": batch["image"] * np.float32(np.nan if number == 5 else 1)})


@dataclass(frozen=True)
class Mended:
    """A training that was terminated, interrupted, damaged, then met a broken batch, then went on to its end."""

    folder: Path
    terminated: tuple[int, str]
    shown: str
    first_kept: tuple[str, ...]
    interrupted: tuple[int, str]
    kept: tuple[str, ...]
    poisoned: tuple[int, str]
    ended: tuple[int, str]
    traces: int
    again: tuple[int, str]


@pytest.fixture(scope="module")
def mended(base: Path, straight: SmallRun) -> Mended:
    folder = base / "mended"
    words = ("train", "--config", straight.config, "--run.dir", folder)
    shown = io.StringIO()
    with batches_with(stalling(folder)):
        zeroth = main_shown(*words, "--resume", "--train.stall_s", 0.05, shown=shown)
    first_kept = tuple(sorted(path.name for path in (folder / "checkpoints").iterdir()))
    with batches_with(interrupted):
        first = main_shown(*words, "--resume")
    kept = tuple(sorted(path.name for path in (folder / "checkpoints").iterdir()))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "lo')
    (folder / "checkpoints" / "4" / "training" / "manifest.ocdbt").write_bytes(b"damaged")
    with batches_with(poisoned):
        second = main_shown(*words, "--resume", shown=shown)
    traces = []

    @functools.wraps(compile.train_step)
    def counted(*arguments: Any, **options: Any) -> Any:
        traces.append(1)
        return step(*arguments, **options)

    step = compile.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compile, "train_step", counted)
        third = main_shown(*words, "--resume")
        fourth = main_shown(*words, "--resume", shown=shown)
    return Mended(folder, zeroth, shown.getvalue(), first_kept, first, kept, second, third, len(traces), fourth)


def state_bits(run: Path, step: int = STEPS) -> dict[str, bytes]:
    """Every array of a checkpoint, as bytes."""
    config, plan = read_config(run / "config.yaml"), read_plan(run / "plan.json")
    create = partial(
        create_state, make_model(config.model, len(plan.labels) + 1), make_optimizer(config.optim, STEPS), 0
    )
    sharding = replicated(make_mesh(1))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(create))
    with checkpoints(run / "checkpoints") as manager:
        items = restore(manager, step, checkpoint_items(like))
    items["training"]["key"] = jax.random.key_data(items["training"]["key"])
    leaves = jax.tree_util.tree_leaves_with_path(items)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(straight: SmallRun, mended: Mended) -> None:
    """Parameters, running statistics, moments, step and key, with augmentation and dropout."""
    assert mended.ended == (0, "")
    expected, found = state_bits(straight.folder), state_bits(mended.folder)
    assert {name.split("'")[3] for name in expected} == {"params", "batch_stats", "opt_state", "step", "key"}
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_resumed_run_is_recorded_as_one_history(straight: SmallRun, mended: Mended) -> None:
    """A line that was cut short does not break what follows; steps done twice count once, with equal losses."""
    whole, resumed = (read_metrics(run / "metrics.jsonl") for run in (straight.folder, mended.folder))
    assert [line["step"] for line in resumed if line["kind"] == "start"] == [0, 3, 3, 4]
    assert [line["step"] for line in resumed if line["kind"] == "stop"] == [3]
    assert [line["kind"] for line in resumed].count("end") == 1
    for kind, steps in (("train", range(1, STEPS + 1)), ("validation", (4, STEPS))):
        expected, found = latest_steps(whole, kind), latest_steps(resumed, kind)
        assert [line["step"] for line in found] == list(steps)
        for key in ("epoch", "loss", "parts", "dsc", "mean_dsc"):
            assert [line.get(key) for line in found] == [line.get(key) for line in expected], key


def test_an_interruption_leaves_the_newest_checkpoint(mended: Mended) -> None:
    status, text = mended.interrupted
    assert status == 130
    (line,) = text.splitlines()
    assert line == "ars-jax: interrupted; the same command goes on"
    assert mended.kept == ("3", "4")


def test_a_sigterm_saves_the_running_step_and_has_its_own_status(mended: Mended) -> None:
    """--resume is also what begins, so that one command line serves a job that is started again and again."""
    line = "ars-jax: stopped by SIGTERM after step 3, which is saved; the same command goes on\n"
    assert mended.terminated == (75, line)
    assert mended.first_kept == ("3",)
    assert f"no checkpoint in {mended.folder} yet: the training begins" in mended.shown
    assert (
        "SIGTERM: stopping after this step, and its validation if it has one; once more stops at once" in mended.shown
    )


def test_the_checkpoint_before_a_damaged_one_is_gone_on_with(mended: Mended) -> None:
    reason = "training/manifest.ocdbt is not as it was written"
    assert f"checkpoint 4 is damaged ({reason}), and now named 4.damaged: going on from 3" in mended.shown


def test_a_training_that_waits_says_for_what(mended: Mended) -> None:
    assert re.search(r"no progress for \d+ s: step 2, waiting for a batch", mended.shown)


def test_processes_that_were_given_something_else_are_named(
    straight: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(straight.folder / "config.yaml")
    loop._check_alike(config, resume=False)
    others = [{}, {"seed: 0": "seed: 1"}]
    monkeypatch.setattr(
        loop, "gather", lambda lines: [[swap.get(line.strip(), line) for line in lines] for swap in others]
    )
    with pytest.raises(UserError, match=r"^process 1: found seed: 1; wanted seed: 0, as process 0"):
        loop._check_alike(config, resume=False)


def test_a_training_that_came_to_its_end_is_let_be(mended: Mended) -> None:
    """Nothing is compiled, nothing recorded: there is one more start than there were interruptions, and one end."""
    assert mended.again == (0, "")
    assert f"{mended.folder} is trained already: {STEPS} steps" in mended.shown


def test_a_loss_that_is_not_finite_stops_naming_step_and_cases(straight: SmallRun, mended: Mended) -> None:
    status, text = mended.poisoned
    assert status == 2
    (line,) = text.splitlines()
    assert line.startswith("ars-jax: step 6, cases case_")
    assert "found loss nan (" in line
    named = line.split("cases ")[1].split(": found")[0].split(", ")
    assert len(named) == OPTIONS["train"]["batch_size"]
    training = json.loads((straight.folder / "split.json").read_text(encoding="utf-8"))["train"]
    assert set(named) <= set(training)


def test_a_training_is_traced_once(mended: Mended) -> None:
    assert mended.traces == 1


def test_a_run_tells_what_it_is(straight: SmallRun) -> None:
    start, *lines, end = lines_of(straight.folder)
    assert start["kind"] == "start"
    assert start["parameters"] == sum(math.prod(shape.shape) for shape in jax.tree.leaves(random_network(PLAN).params))
    assert (start["device"], start["platform"]) == ("8 x cpu", "cpu")
    assert (start["training_cases"], start["validation_cases"], start["canvas"]) == (9, 1, [16, 16, 16])
    assert (start["objective"], start["dtype"], start["dataset"]) == (
        ARS,
        "float32",
        str(straight.data),
    )
    assert {line["kind"] for line in lines} == {"train", "validation"}
    for line in lines:
        assert line["epoch"] == line["step"] / 2
        if line["kind"] == "train":
            parts = line["parts"]
            assert parts.keys() == {"dice", "cross_entropy", "adaptive_region_specific"}
            assert line["loss"] == pytest.approx(sum(parts.values()), rel=1e-5)
            assert all(line[f"{part}_s"] >= 0 for part in ("step", "load", "augment", "wait", "transfer", "idle"))
        else:
            assert line["dsc"].keys() == LABELS.keys()
            assert line["mean_dsc"] == pytest.approx(np.mean([dsc for dsc in line["dsc"].values() if dsc is not None]))
    assert (end["kind"], end["step"]) == ("end", STEPS)


def test_a_run_folder_holds_what_prediction_needs(straight: SmallRun) -> None:
    plan = read_plan(straight.folder / "plan.json")
    assert (plan.labels, plan.pairs) == (tuple(LABELS), (("Ball_L", "Ball_R"),))
    assert plan.canvas == plan.whole == (16, 16, 16)
    config = read_config(straight.folder / "config.yaml")
    assert config == read_config(straight.config)
    meta = json.loads((straight.folder / "checkpoints" / str(STEPS) / "meta" / "metadata").read_text(encoding="utf-8"))
    assert meta["config"]["optim"]["learning_rate"] == config.optim.learning_rate
    assert tuple(meta["plan"]["labels"]) == plan.labels


def test_devices_that_augment_see_the_same_batches(straight: SmallRun) -> None:
    """As those that the loader augments: the same draws of the same cases, laid on the devices as the step wants."""
    config = read_config(straight.folder / "config.yaml")
    inputs = loop.prepare_inputs(config)
    setups = [
        loop._set_up(replace(config, augment=replace(config.augment, device=device)), inputs)
        for device in (False, True)
    ]
    sources = [(loop._batches(setup, start=3), loop._placing(setup)) for setup in setups]
    for _ in range(2):
        plain, staged = (place(next(source)) for source, place in sources)
        assert staged.keys() == plain.keys()
        np.testing.assert_array_equal(staged["label"], plain["label"])
        np.testing.assert_array_equal(staged["labelled"], plain["labelled"])
        np.testing.assert_allclose(staged["image"], plain["image"], atol=1e-5)
        for name, array in plain.items():
            assert staged[name].sharding.is_equivalent_to(array.sharding, array.ndim)


def test_what_is_not_finite_is_not_saved_at_a_signal(
    straight: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the step after which a training stops is looked at before its state is saved."""
    setup = loop._set_up(config := read_config(straight.folder / "config.yaml"), loop.prepare_inputs(config))
    batch = {"seconds": {"load": 0.0, "augment": 0.0}, "names": ("case",)}
    source: Any = iter([batch])
    monkeypatch.setattr(loop, "_placing", lambda _: lambda _: {})
    saved = []
    monkeypatch.setattr(loop, "save", lambda _, number, *__: saved.append(number))
    state = loop._first_state(setup)

    def step(state: Any, _: Any) -> Any:
        return state, {"loss": np.float32(np.nan), "parts": {}}

    with (
        checkpoints(tmp_path / "checkpoints") as manager,
        Recorder(tmp_path / "metrics.jsonl", Console(quiet=True), setup.per_epoch, setup.steps) as recorder,
        pytest.raises(DivergedError),
    ):
        compiled: Any = step
        loop._run_steps(setup, state, compiled, source, manager, recorder, lambda _: "SIGTERM", lambda *_: None)
    assert saved == []


@dataclass(frozen=True)
class OnDevices:
    """A training whose devices augment, interrupted after a checkpoint and gone on with; what it recorded at each."""

    folder: Path
    interrupted: list[dict[str, Any]]
    ended: tuple[int, str]


@pytest.fixture(scope="module")
def on_devices(base: Path, straight: SmallRun) -> OnDevices:
    folder = base / "on_devices"
    words = ("train", "--config", straight.config, "--run.dir", folder, "--augment.device=true")
    with batches_with(interrupted):
        assert main_shown(*words)[0] == 130
    first = lines_of(folder)
    return OnDevices(folder, first, main_shown(*words, "--resume"))


def losses_of(lines: list[dict[str, Any]]) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def test_a_training_whose_devices_augment_starts_like_one_whose_loader_does(
    straight: SmallRun, on_devices: OnDevices
) -> None:
    """Images differ by rounding, which training magnifies from step to step."""
    expected, found = losses_of(lines_of(straight.folder)), losses_of(on_devices.interrupted)
    for step, tolerance in ((1, 1e-5), (2, 1e-3)):
        assert found[step] == pytest.approx(expected[step], rel=tolerance)


def test_a_resumed_training_whose_devices_augment_goes_on_bit_for_bit(on_devices: OnDevices) -> None:
    """The steps that were done twice have equal losses, and it ends as long as any other."""
    assert on_devices.ended == (0, "")
    before = losses_of(on_devices.interrupted)
    lines = lines_of(on_devices.folder)[len(on_devices.interrupted) :]
    after = losses_of(lines)
    assert list(after) == [5, 6, 7, 8]
    twice = before.keys() & after.keys()
    assert 5 in twice
    assert [before[step] for step in twice] == [after[step] for step in twice]
    assert all(math.isfinite(loss) for loss in after.values())
    assert lines[-1]["kind"] == "end"


@pytest.fixture(scope="module")
def mapped(base: Path, straight: SmallRun) -> Path:
    """The same training with regional maps after every second epoch, interrupted in its fourth, then gone on with."""
    folder = base / "mapped"
    words = ("train", "--config", straight.config, "--run.dir", folder, "--train.maps_every=2")
    with batches_with(interrupted):
        assert main_shown(*words)[0] == 130
    assert main_shown(*words, "--resume") == (0, "")
    return folder


def test_maps_are_written_by_epoch_and_change_nothing(straight: SmallRun, mapped: Path) -> None:
    """Parameters are those of the training without maps, bit for bit, also after an interruption."""
    assert sorted(path.name for path in (mapped / "maps").iterdir()) == ["epoch_0002.npz", "epoch_0004.npz"]
    recorded = [(line["epoch"], line["file"]) for line in latest_steps(read_metrics(mapped / "metrics.jsonl"), "maps")]
    assert recorded == [(2, "maps/epoch_0002.npz"), (4, "maps/epoch_0004.npz")]
    assert not (straight.folder / "maps").exists()
    expected, found = state_bits(straight.folder), state_bits(mapped)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_maps_are_those_of_the_network_at_the_end_of_the_epoch(mapped: Path) -> None:
    """Of the first validation case, whole, by the run's grid and penalties; and they move as training goes on."""
    config = read_config(mapped / "config.yaml")
    sample = loop.prepare_inputs(config).validation[0]
    network = load_network(mapped, config, "newest")
    with np.load(mapped / "maps" / "epoch_0004.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert str(arrays.pop("case")) == sample.name
    assert arrays.pop("classes").tolist() == ["background", *LABELS]
    label = sample.label[None].astype(np.int32)
    how: dict[str, Any] = {"regions": config.loss.regions, "adaptive_gradient": config.loss.adaptive_gradient}
    expected = region_maps(predict_logits(network, sample.image)[None], label, **how).arrays()
    assert arrays.keys() == expected.keys()
    for name, values in expected.items():
        assert values.shape == (1, 2, 2, 2, 3)
        np.testing.assert_allclose(arrays[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    with np.load(mapped / "maps" / "epoch_0002.npz") as file:
        assert not np.allclose(file["loss"], arrays["loss"])


def test_maps_need_a_grid_that_fits_their_case(straight: SmallRun, tmp_path: Path) -> None:
    """The case of 12 to 14 slices is smaller than the canvas of 16."""
    options = ("--train.maps_every=1", "--loss.regions=16", "--data.cache", tmp_path / "cache")
    line = refused(straight, *options, folder=tmp_path / "new")
    assert line.startswith("ars-jax: loss.regions: found 16")
    assert "of which maps are written" in line


def test_organs_that_nobody_drew_are_background_in_maps(tmp_path: Path) -> None:
    network = random_network(PLAN)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (16, 16, 16)).astype(np.float32)
    label = rng.integers(0, 2, image.shape).astype(np.uint8)
    drawn = Sample("case", image, label, np.array([True, True, False]))
    write_maps(tmp_path / "maps.npz", network, drawn, Objective(regions=2))
    with np.load(tmp_path / "maps.npz") as file:
        assert file["false_positives"][..., 1].min() > 0
        assert file["false_positives"][..., 2].max() == 0


def refused(straight: SmallRun, *options: object, folder: Path | None = None) -> str:
    """What a training says that has to leave the run's folder as it is."""
    folder = folder or straight.folder
    before = files_of(folder)
    status, text = main_shown("train", "--config", straight.config, "--run.dir", folder, *options)
    assert status == 2
    assert files_of(folder) == before
    (line,) = text.splitlines()
    return line


def test_a_taken_folder_is_refused(straight: SmallRun) -> None:
    line = refused(straight)
    assert line.startswith(f"ars-jax: {straight.folder}: found a run; wanted a new folder")
    assert "--resume" in line


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("--optim.learning_rate=0.5", "optim.learning_rate"),
        ("--model.base_channels=4", "model.base_channels"),
        ("--train.epochs=5", "train.epochs"),
        ("--loss.regions=[2,2,2]", "loss.regions"),
        ("--data.labels={Ball_L: 3}", "data.labels"),
    ],
)
def test_resuming_with_another_configuration_names_the_key(straight: SmallRun, option: str, key: str) -> None:
    line = refused(straight, "--resume", option)
    assert line.startswith(f"ars-jax: {straight.folder / 'config.yaml'} {key}: found ")


def test_resuming_with_other_cases_names_them(straight: SmallRun, tmp_path: Path) -> None:
    """The data may lie elsewhere, but has to be the same."""
    data = tmp_path / "moved"
    shutil.copytree(straight.data, data)
    label = read_volume(data / "labels" / "case_3.nii.gz")
    write_volume(data / "labels" / "case_3.nii.gz", Volume(np.zeros_like(label.array), label.geometry))
    line = refused(straight, "--resume", "--data.root", data, "--data.cache", tmp_path / "cache")
    assert "case_3" in line
    assert "case_4" not in line


def test_resuming_with_other_test_cases_names_them(straight: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder, ignore=shutil.ignore_patterns("cache"))
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    (folder / "split.json").write_text(json.dumps({**split, "test": {"case_10": "0" * 16}}), encoding="utf-8")
    line = refused(straight, "--resume", "--data.cache", straight.folder / "cache", folder=folder)
    assert "found other test cases than the run began with: case_10" in line


def test_a_run_without_checkpoint_still_wants_its_configuration(straight: SmallRun, tmp_path: Path) -> None:
    """It was killed before the first one."""
    shutil.copy(straight.folder / "config.yaml", tmp_path)
    line = refused(straight, "--resume", "--train.epochs=5", folder=tmp_path)
    assert line.startswith(f"ars-jax: {tmp_path / 'config.yaml'} train.epochs: found 5 now; wanted 4")


def test_checkpoints_without_configuration_are_refused(straight: SmallRun, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    line = refused(straight, "--resume", folder=tmp_path)
    assert line.startswith(f"ars-jax: {tmp_path}: found checkpoints without config.yaml")


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_second_training_of_one_folder_is_refused(straight: SmallRun, tmp_path: Path, resume: tuple) -> None:
    """At once, and naming the first."""
    with locked(tmp_path / ".lock") as free:
        assert free
        line = refused(straight, *resume, folder=tmp_path)
    assert line.startswith(f"ars-jax: {tmp_path}: found another training at work: process {os.getpid()} on ")


def test_batches_have_to_fill_the_devices(straight: SmallRun, tmp_path: Path) -> None:
    line = refused(straight, "--train.batch_size=12", folder=tmp_path / "new")
    assert line.startswith("ars-jax: train.batch_size: found 12; wanted a multiple of the 8 devices along mesh.data")
    line = refused(straight, "--train.accumulate=2", folder=tmp_path / "new")
    assert (
        "train.batch_size: found 8; wanted a multiple of the 8 devices along mesh.data times train.accumulate 2" in line
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["--loss.regions=17", "--loss.regions=0", "--loss.regions=[1,2,-3]"])
def test_regions_have_to_fit_the_canvas(straight: SmallRun, tmp_path: Path, option: str) -> None:
    line = refused(straight, option, "--data.cache", tmp_path / "cache", folder=tmp_path / "new")
    assert line.startswith("ars-jax: loss.regions")
    assert not (tmp_path / "new").exists()


def test_a_flip_exchanges_the_channels_of_paired_organs(tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path / "config.yaml", tmp_path, tmp_path))
    plan = replace(PLAN, labels=("Cord", "Ball_R", "Ball_L"))
    augmentation = make_augmentation(config, plan)
    assert augmentation.swap == ((3, 2),)
    assert augmentation.flip == (False, False, True)
    with pytest.raises(UserError, match=r"^data\.pairs: .*Ball_R and Ball_L unpaired"):
        make_augmentation(config, replace(plan, pairs=()))


def test_a_training_on_partly_labelled_cases_heeds_it(tmp_path: Path) -> None:
    """An organ that nobody drew is background in the label map and not labelled."""
    data = write_data_set(tmp_path / "data", cases=3)
    (data / "unlabelled.json").write_text(json.dumps({f"case_{index}": ["Ball_R"] for index in range(3)}))
    config = read_config(write_config(tmp_path / "config.yaml", data, tmp_path / "run"))
    inputs = loop.prepare_inputs(config)
    assert inputs.partly_labelled
    assert all(one.labelled.tolist() == [True, True, False] for one in inputs.training)
    assert all(set(np.unique(one.label)) == {0, 1} for one in inputs.training)
