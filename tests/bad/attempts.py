"""Commands that are given bad inputs of every kind, drawn by hypothesis."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st

from ars_jax.files import read_json
from tests.bad import files
from tests.bad.files import HOSTILE
from tests.bad.judge import Attempt
from tests.data.synthetic import LABELS

ARRAYS = {
    "logits": np.zeros((8, 8, 3), np.float32),
    "labels": np.ones((8, 8), np.uint8),
    "where": np.ones((8, 8), bool),
}


@st.composite
def volumes(draw: Any) -> Attempt:
    """Images and labels in every command that reads them."""
    shape = draw(files.grids)
    ending = draw(st.sampled_from([".nii", ".nii", ".nii.gz"]))
    image, label = draw(files.nifti(shape)), draw(files.nifti(shape, label=True))
    if not draw(st.integers(0, 4)):
        ending, image = draw(files.text_headed())
    if ending == ".nii.gz":
        image = gzip.compress(image, 1)
    image, label = draw(files.damaged(image)), draw(files.damaged(label))
    name = draw(st.sampled_from(["case_0", "a b", "☢ ü", "[red]", "a\nb", "$x^{$", ":x:"]))
    command = draw(st.sampled_from(["check", "json", "repair", *["train", "predict", "score"] * 3]))
    if command == "predict":
        return Attempt(
            ("predict", "{run}", f"{{tmp}}/{name}{ending}", "--out", "{tmp}/out"), {f"{name}{ending}": image}
        )
    if command == "score":
        tables = {f"{part}/labels.json": json.dumps(LABELS).encode() for part in ("p", "r")}
        words = ("evaluate", "--predictions", "{tmp}/p", "--references", "{tmp}/r", "--out", "{tmp}/out")
        return Attempt(words, {f"p/{name}.nii": label, f"r/{name}.nii": draw(files.damaged(label)), **tables})
    both = {f"data/images/{name}{ending}": image, f"data/labels/{name}.nii": label}
    both["data/images/case_0.nii"] = both.get("data/images/case_0.nii", "gone")
    both["data/labels/case_0.nii"] = both.get("data/labels/case_0.nii", "gone")
    words = {
        "check": ("check", "{tmp}/data"),
        "json": ("check", "{tmp}/data", "--json", "{tmp}/measures.json"),
        "repair": ("check", "{tmp}/data", "--repair", "{tmp}/copy", "--repair_headers"),
        "train": (
            *TRAIN,
            "--data.root",
            "{tmp}/data",
            "--prepare.crop",
            draw(st.sampled_from(["none", "body", "nonzero"])),
        ),
    }
    return Attempt(words[command], both, ("data",))


TRAIN = ("train", "--config", "{base}/config.yaml", "--run.dir", "{tmp}/run", "--data.cache", "{tmp}/cache")
CONFIG = {
    "data": {
        "labels": {"Ball_L": 3, "Ball_R": 7},
        "pairs": [["Ball_L", "Ball_R"]],
        "folds": 2,
        "fold": 0,
        "split_sizes": None,
    },
    "prepare": {
        "crop": "body",
        "crop_margin_mm": 5,
        "spacing": [1.0, 1.0, 1.0],
        "window": [-200, 400],
        "intensity": "window",
        "canvas": [16, 16, 16],
        "patch": [16, 16, 16],
    },
    "augment": {"flip": [False, False, True], "translate": 0.1, "scale": [0.9, 1.1], "intensity_shift": 0.1},
    "model": {"variant": "figure", "base_channels": 2, "kernel_size": 3, "dropout": 0.1, "dtype": "float32"},
    "loss": {
        "terms": {"baseline": 1.0, "adaptive_region_specific": 1.0},
        "regions": {"voxels": [4, 4, 4]},
        "min_penalty": 0.3,
        "penalty_range": 0.4,
        "eps": 1e-7,
    },
    "optim": {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.1, "clip_norm": 1.0},
    "train": {
        "epochs": 1,
        "batch_size": 8,
        "accumulate": 1,
        "validate_every": 1,
        "maps_every": 0,
        "stall_s": 600.0,
        "seed": 0,
    },
    "mesh": {"data": 1, "space": 1, "parameters": "replicated"},
}
KEYS = [f"{section}.{key}" for section, keys in CONFIG.items() for key in keys]


@st.composite
def configurations(draw: Any) -> Attempt:
    """YAML files and options."""
    text = draw(files.yaml_like(CONFIG))
    options: tuple[str, ...] = ()
    if draw(st.booleans()):
        key = draw(st.sampled_from([*KEYS, "train.epoch", "class_path", "x", "data"]))
        value = draw(files.values)
        options = (f"--{key}={value if isinstance(value, str) else json.dumps(value)}",)
        text = yaml.safe_dump(CONFIG).encode() if draw(st.booleans()) else text
    words = ("train", "--data.root", "{data}", "--run.dir", "{tmp}/run", "--data.cache", "{tmp}/cache")
    return Attempt((*words, "--config", "{tmp}/config.yaml", *options), {"config.yaml": text})


@st.composite
def tables(draw: Any) -> Attempt:
    """Label tables, dataset.json, unlabelled.json and splits."""
    name, document = draw(
        st.sampled_from(
            [
                ("labels.json", {"Ball_L": 3, "Ball_R": 7}),
                ("unlabelled.json", {"case_1": ["Ball_L"]}),
                ("split.json", {"train": ["case_0", "case_1"], "validation": ["case_2"], "test": ["case_3"]}),
                (
                    "dataset.json",
                    {
                        "labels": {"0": "background", "3": "Ball_L", "7": "Ball_R"},
                        "channel_names": {},
                        "training": [{"image": "./imagesTr/case_0.nii", "label": "x"}],
                    },
                ),
            ]
        )
    )
    content = {f"data/{name}": draw(files.json_like(document))}
    if name == "dataset.json":
        content |= {f"data/{part}Tr/case_0.nii": b"" for part in ("images", "labels")}
    options = ("--data.split", name) if name == "split.json" else ()
    if draw(st.booleans()) and not options:
        return Attempt(("check", "{tmp}/data", "--json", "{tmp}/measures.json"), content, ("data",))
    return Attempt((*TRAIN, "--data.root", "{tmp}/data", *options), content, ("data",))


RUN_WORDS = (
    ("predict", "{tmp}/run", "{data}/images/case_0.nii", "--out", "{tmp}/out"),
    ("evaluate", "{tmp}/run", "--cases", "validation", "--out", "{tmp}/out"),
    ("evaluate", "{tmp}/run", "--data", "{data}", "--out", "{tmp}/out"),
    (*TRAIN[:3], "--run.dir", "{tmp}/run", "--data.cache", "{base}/cache", "--resume"),
)


@st.composite
def run_folders(draw: Any, base: Path) -> Attempt:
    """The files of a run, damaged or contradicting each other."""
    name = draw(
        st.sampled_from(
            [
                "plan.json",
                "split.json",
                "config.yaml",
                "metrics.jsonl",
                "evaluation/table.json",
                "evaluation/cases.json",
                "evaluation/references/labels.json",
            ]
        )
    )
    text = (base / "run" / name).read_text(encoding="utf-8")
    if name == "config.yaml":
        content = draw(files.yaml_like(yaml.safe_load(text)))
    elif name == "metrics.jsonl":
        lines = text.splitlines()
        place = draw(st.integers(0, len(lines) - 1))
        changed = draw(files.json_like(json.loads(lines[place])))
        content = b"\n".join(
            [*(line.encode() for line in lines[:place]), changed, *(x.encode() for x in lines[place + 1 :])]
        )
    else:
        content = draw(files.json_like(json.loads(text)))
    words = ("report", "{tmp}/run", "--out", "{tmp}/out")
    if name in ("plan.json", "split.json", "config.yaml") and draw(st.integers(0, 4)):
        words = draw(st.sampled_from(RUN_WORDS))
    return Attempt(words, {f"run/{name}": content}, ("run",))


@st.composite
def saved_states(draw: Any, base: Path) -> Attempt:
    """The files of a checkpoint, damaged, missing or replaced by something else."""
    root = base / "run" / "checkpoints"
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    content: dict[str, bytes | str] = {}
    for path in draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3, unique=True)):
        other = st.sampled_from(["gone", "folder", "loop", "locked", files.PICKLE, *files.TEXTS])
        content[f"run/{path.relative_to(base / 'run')}"] = draw(files.damaged(path.read_bytes()) | other)
    if not draw(st.integers(0, 5)):
        content = {
            f"run/checkpoints/{draw(st.sampled_from(['7', '1', '00', '-1', 'x']))}": draw(
                st.sampled_from(["folder", b"", "loop"])
            )
        }
    return Attempt(draw(st.sampled_from(RUN_WORDS[:3])), content, ("run",))


@st.composite
def resuming(draw: Any, base: Path) -> Attempt:
    """A training that goes on from checkpoints of which the newest, the one before or both are damaged."""
    root, steps = base / "trained", draw(st.sampled_from([("1", "2"), ("1", "2"), ("1", "2"), ("2",), ("2",), ("1",)]))
    item = draw(st.sampled_from([*["model", "training"] * 3, "metrics", "meta", "_CHECKPOINT_METADATA"]))
    content: dict[str, bytes | str] = {}
    for step in steps:
        place = root / "checkpoints" / step / item
        # What has no digest comes to nothing, such as an empty file that says that all is there.
        digests = place / "digests.json"
        names = sorted(read_json(digests)) if digests.is_file() else ["."]
        path = draw(st.sampled_from([place / name for name in names] + [digests] * digests.is_file()))
        content[f"trained/{path.relative_to(root)}"] = draw(files.broken(path.read_bytes()))
    if not draw(st.integers(0, 2)):
        words = ("predict", "{tmp}/trained", "{data}/images/case_0.nii", "--out", "{tmp}/out", "--checkpoint")
        wanted = {"model": ("refused" if "2" in steps else "taken",), "training": ("taken",)}.get(item, ())
        return Attempt((*words, draw(st.sampled_from(["best", "newest"]))), content, ("trained",), wanted)
    words = ("train", "--config", "{base}/config.yaml", "--run.dir", "{tmp}/trained", "--data.cache", "{base}/cache")
    wanted = {
        ("1", "2"): ("refused", "checkpoint 2: ", "checkpoint 1: "),
        ("2",): ("taken", "checkpoint 2 is damaged", "going on from 1"),
        ("1",): ("taken",),
    }[steps]
    return Attempt((*words, "--resume"), content, ("trained",), wanted if item in ("model", "training") else ())


@st.composite
def caches(draw: Any, base: Path) -> Attempt:
    """Prepared cases."""
    path = draw(st.sampled_from(sorted((base / "cache").glob("*.npz"))))
    with np.load(path, allow_pickle=False) as arrays:
        content = draw(files.npz_like({name: arrays[name] for name in arrays.files}))
    other = st.sampled_from(["folder", "loop", "locked"])
    content = draw(other) if not draw(st.integers(0, 9)) else content
    words = ("train", "--config", "{base}/config.yaml", "--run.dir", "{tmp}/run", "--data.cache", "{tmp}/cache")
    return Attempt(words, {f"cache/{path.name}": content}, ("cache",))


@st.composite
def arrays(draw: Any) -> Attempt:
    """Logits and labels of the laboratory's commands."""
    words = (
        "gradcheck",
        "--arrays",
        "{tmp}/case.npz",
        "--losses",
        "dice",
        "--dtype",
        "float32",
        "--json",
        "{tmp}/rows.json",
    )
    content = draw(files.npz_like(ARRAYS))
    if draw(st.booleans()):
        key, texts = draw(
            st.sampled_from(
                [
                    ("grid", ["0", "-1", "[1]", "[99,99]", "nan", "[[1]]", "1e9", "null"]),
                    ("tolerance", ["-1", "nan", "inf", "x"]),
                    ("seed", ["-1", "1e30", "x"]),
                    ("options", ["{}", "[]", '{"a": "x"}', '{"eps": -1}', '{"x": 1}', "3"]),
                ]
            )
        )
        words += (f"--{key}", draw(st.sampled_from(texts)))
        content = draw(files.npz_like(ARRAYS)) if draw(st.booleans()) else NPZ
    return Attempt(words, {"case.npz": content})


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


NPZ = _packed(ARRAYS)


@st.composite
def places(draw: Any) -> Attempt:
    """Paths that are not what a command wants: links to themselves, folders for files and files for folders."""
    thing = draw(st.sampled_from([b"", b"text", "folder", "loop", "locked", "gone"]))
    name = draw(
        st.sampled_from(
            ["x.nii", "x.nii.gz", "x.mha", "x.nhdr", "a b", "☢", "[x]", "x" * 250, "x" * 300, "a\nb", "x.npz"]
        )
    )
    path = f"{{tmp}}/{name}"
    words = draw(
        st.sampled_from(
            [
                ("predict", "{run}", path, "--out", "{tmp}/out"),
                ("predict", "{run}", "{data}/images/case_0.nii", "--out", path),
                ("predict", path, "{data}/images/case_0.nii", "--out", "{tmp}/out"),
                ("check", path),
                ("check", "{data}", "--json", path),
                ("check", "{data}", "--repair", path),
                ("train", "--config", path),
                (*TRAIN, "--data.root", path),
                (*TRAIN[:3], "--run.dir", path, "--data.cache", "{tmp}/cache"),
                (*TRAIN[:5], "--data.cache", path),
                (*TRAIN, "--data.split", path),
                ("evaluate", path),
                ("evaluate", "--predictions", path, "--references", path),
                ("report", path, "--out", "{tmp}/out"),
                ("gradcheck", "--arrays", path, "--losses", "dice"),
                ("gradients", "--arrays", path, "--out", "{tmp}/out"),
                ("phantom", "--out", path, "--cases", "0"),
            ]
        )
    )
    content = {name: thing} if len(name) < 256 else {}
    return Attempt(words, content)


@st.composite
def names(draw: Any, base: Path) -> Attempt:
    """Sound cases and organs with names that files, pages, figures and terminals read as something else."""
    usable = [name for name in HOSTILE if not {"\0", "\ud800"} & set(name)]
    organ, case = draw(st.sampled_from(usable)), draw(st.sampled_from(usable)).replace("/", "_")[:200] or "x"
    image, label = ((base / "data" / part / "case_0.nii").read_bytes() for part in ("images", "labels"))
    table = json.dumps({organ: 3, "Ball_R": 7}).encode()
    drawn: dict[str, bytes | str] = {f"data/images/{case}.nii": image, f"data/labels/{case}.nii": label}
    drawn |= {"data/labels.json": table, "data/unlabelled.json": json.dumps({case: [organ]}).encode()}
    scored: dict[str, bytes | str] = {f"p/{case}.nii": label, f"r/{case}.nii": label, "r/labels.json": table}
    folders = ("evaluate", "--predictions", "{tmp}/p", "--references", "{tmp}/r", "--out", "{tmp}/out")
    run: dict[str, bytes | str] = {}
    for name in ("plan.json", "metrics.jsonl", "evaluation/table.json", "evaluation/cases.json"):
        text = (base / "run" / name).read_text(encoding="utf-8").replace("Ball_L", json.dumps(organ)[1:-1])
        run[f"run/{name}"] = text.replace('"case_0"', json.dumps(case)).encode()
    return draw(
        st.sampled_from(
            [
                Attempt(("check", "{tmp}/data", "--json", "{tmp}/measures.json"), drawn, ("data",)),
                Attempt(("check", "{tmp}/data", "--repair", "{tmp}/copy"), drawn, ("data",)),
                Attempt((*TRAIN, "--data.root", "{tmp}/data", *WITHOUT_PAIRS), drawn, ("data",)),
                Attempt(folders, scored),
                Attempt(("predict", "{run}", f"{{tmp}}/{case}.nii", "--out", "{tmp}/out"), {f"{case}.nii": image}),
                Attempt(("report", "{tmp}/run", "--out", "{tmp}/out"), run, ("run",)),
            ]
        )
    )


WITHOUT_PAIRS = ("--data.pairs=[]", "--augment.flip=[false,false,false]")


def kinds(base: Path) -> dict[str, st.SearchStrategy[Attempt]]:
    """Every kind of bad input, by name."""
    return {
        "volumes": volumes(),
        "configurations": configurations(),
        "tables": tables(),
        "run folders": run_folders(base),
        "checkpoints": saved_states(base),
        "resuming": resuming(base),
        "prepared caches": caches(base),
        "arrays": arrays(),
        "places": places(),
        "names": names(base),
    }
