"""What each command of `ars-jax` takes."""

from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from ars_jax.config import TOLERANCE_MM, Convention, Layout, Remat, Role
from ars_jax.options import add_config, add_experiment

DEMO_CASES = 60


def demo_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax demo`."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for data, run and report")
    parser.add_argument("--options", type=list[str], default=[], help="options of train, e.g. '[\"--train.epochs=2\"]'")
    add_compiled(parser)


def phantom_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax phantom`."""
    parser.add_argument("--out", type=Path, required=True, help="folder for a data set in MSD layout")
    parser.add_argument("--cases", type=int, default=DEMO_CASES, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="decides the anatomies")


def check_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax check`."""
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--layout", type=Layout, default="auto", help="how it is arranged")
    parser.add_argument("--labels", type=dict[str, int], default=None, help="organs and values, e.g. '{\"Liver\": 1}'")
    parser.add_argument("--repair", type=Path, default=None, help="new folder for a corrected copy")
    parser.add_argument(
        "--repair_headers",
        action="store_true",
        help="let the copy take headers over, from image to label or back, where the check found one to be wrong",
    )
    parser.add_argument("--json", type=Path, default=None, help="file for all measures and faults of all cases")


def train_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax train`."""
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest checkpoint")
    add_processes(parser)
    add_compiled(parser)


def plan_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax plan`."""
    add_config(parser)
    # Neither is read where canvas and classes are given.
    parser.set_defaults({"data.root": Path("data"), "run.dir": Path("runs/plan")})
    parser.add_argument(
        "--remat",
        type=Literal["all", Remat],
        default="all",
        help="the policy to plan, as in model.remat; each one is compiled",
    )
    parser.add_argument(
        "--memory", type=str | None, default=None, help="of a device, e.g. 11GB or 16GiB; its own by default"
    )
    parser.add_argument(
        "--topology",
        type=str | None,
        default=None,
        help="accelerators that need not be there: TPU chips, e.g. v5e:2x2, or GPUs: a100, h100, h200, h100:4 for "
        "four; this machine's devices by default",
    )
    parser.add_argument(
        "--canvas",
        type=tuple[int, int, int] | None,
        default=None,
        help="voxels z, y, x of a sample, e.g. '[128,144,256]', instead of the configuration's",
    )
    parser.add_argument(
        "--classes", type=int | None, default=None, help="background included, instead of those of the data set"
    )
    parser.add_argument("--json", type=Path | None, default=None, help="file for the numbers")


def experiment_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax experiment`."""
    add_experiment(parser)
    add_compiled(parser)


def predict_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax predict`."""
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("images", type=Path, nargs="+", help="volume files, or folders of one DICOM series")
    parser.add_argument("--out", type=Path, required=True, help="folder for the label maps")
    add_checkpoint(parser)
    add_compiled(parser)


def evaluate_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax evaluate`."""
    parser.add_argument("run", type=Path, nargs="?", default=None, help="folder of a run: predict and score its cases")
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        help="another data set than the run's validation cases; those that it has seen are left out",
    )
    parser.add_argument(
        "--cases", type=Role | None, default=None, help="of the run's split; test where it has test cases"
    )
    parser.add_argument("--predictions", type=Path, default=None, help="folder of label maps, instead of a run")
    parser.add_argument("--references", type=Path, default=None, help="folder of label maps of equal names")
    parser.add_argument("--labels", type=dict[str, int], default=None, help="organs and values, e.g. '{\"Liver\": 1}'")
    parser.add_argument("--convention", type=Convention, default="paper-boundary", help="of HD95 and ASD")
    parser.add_argument("--tolerance_mm", type=float, default=TOLERANCE_MM, help="of the surface Dice, mm")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for the tables; of a run by default its folder evaluation"
    )
    add_checkpoint(parser)
    add_compiled(parser)


def report_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax report`."""
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for index.html")


def gradcheck_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax gradcheck`."""
    parser.add_argument(
        "--arrays",
        type=Path,
        default=None,
        help="npz file with logits [b, *space, c], labels [b, *space] and maybe where; a phantom by default",
    )
    parser.add_argument(
        "--losses", type=str, default=None, help="losses and presets, e.g. dice,monai_dice; default all"
    )
    parser.add_argument(
        "--regions",
        type=int | list[int] | None,
        default=None,
        help="number per axis, e.g. 8 or '[8,8,4]'; 16 by default, or the side where that is less",
    )
    parser.add_argument("--dtype", type=Literal["float64", "float32"], default="float64", help="what is computed in")
    parser.add_argument(
        "--tolerance",
        type=float | None,
        default=None,
        help="largest relative difference, instead of one for each oracle",
    )
    parser.add_argument(
        "--options",
        type=dict[str, Any] | None,
        default=None,
        help='of those losses that have them, e.g. \'{"reduction": "class_mean", "min_penalty": 0.2}\'',
    )
    parser.add_argument("--seed", type=int, default=0, help="decides the phantom and the directions of differences")
    parser.add_argument("--json", type=Path, default=None, help="file for the comparisons")


def gradients_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of `ars-jax gradients`."""
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, volumes and numbers")
    parser.add_argument("--run", type=Path, default=None, help="folder of a run, whose network predicts the case")
    parser.add_argument(
        "--case", type=str | None, default=None, help="a validation case of the run; the first by default"
    )
    parser.add_argument("--image", type=Path, default=None, help="instead of --case, a volume file or DICOM folder")
    parser.add_argument("--labels", type=Path, default=None, help="its label map, or a folder of one mask per organ")
    add_checkpoint(parser)
    parser.add_argument(
        "--arrays",
        type=Path,
        default=None,
        help="instead of a run, npz file with logits [b, *space, c] and labels [b, *space]; of a batch the first",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the phantom, which is taken without run and arrays"
    )
    parser.add_argument(
        "--regions", type=int | list[int] | None, default=None, help="number per axis; the run's by default, else 16"
    )
    for name, what, paper in (("min_penalty", "smallest penalty", 0.3), ("penalty_range", "its range", 0.4)):
        text = f"{what}; the run's by default, else {paper}"
        parser.add_argument(f"--{name}", type=float | None, default=None, help=text)
    modes = Literal["through", "stop"] | None
    parser.add_argument("--adaptive_gradient", type=modes, default=None, help="the run's by default, else through")
    parser.add_argument("--organ", type=str | None, default=None, help="whose regions are drawn; the worst by default")
    add_compiled(parser)


def add_checkpoint(parser: ArgumentParser) -> None:
    """Adds the choice between the best and the newest parameters of a run."""
    parser.add_argument("--checkpoint", type=Literal["best", "newest"], default="best", help="which parameters")


def add_processes(parser: ArgumentParser) -> None:
    """Adds what makes several processes train as one: all the same command, but for the process's number."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="be one of the processes that Slurm, Open MPI or a TPU pod started",
    )
    parser.add_argument(
        "--coordinator",
        type=str | None,
        default=None,
        help="HOST:PORT of process 0, where nothing else started the processes; with --processes and --process",
    )
    parser.add_argument("--processes", type=int | None, default=None, help="how many there are")
    parser.add_argument("--process", type=int | None, default=None, help="number of this one, from 0")
    parser.add_argument("--join_timeout", type=float, default=300.0, help="seconds to wait for the others")


def add_compiled(parser: ArgumentParser) -> None:
    """Adds the folder of compiled programs."""
    parser.add_argument(
        "--compiled",
        type=Path | None,
        default=None,
        help="folder that keeps compiled programs for later runs; by default JAX_COMPILATION_CACHE_DIR, else "
        "ars_jax/compiled in the user's folder for caches; JAX_ENABLE_COMPILATION_CACHE=false keeps none",
    )
