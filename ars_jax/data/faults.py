"""What can be wrong with a data set: one line per fault, with its fix."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPAIR = "resample the label to the image's grid by physical space: ars-jax check --repair DIR"
"""The fix of a label that lies right in space, on another grid."""

LABEL_HEADER = "give the label the image's header: ars-jax check --repair DIR --repair_headers"
"""The fix of a label whose voxels fit the image, but whose header is wrong."""

IMAGE_HEADER = "give the image the label's header: ars-jax check --repair DIR --repair_headers"
"""The fix of an image without a place beside a label that has one."""

ELSEWHERE = "draw or export the label on this image: elsewhere they do not meet"
"""The fix of a label on other voxels than its image, at another place."""

CANNOT_TELL = "look at image and label together and correct the wrong header: nothing tells for sure which one it is"
"""The fix of a label that may be right as its header says, or as its voxels are stored."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set.

    Args:
        case: the case's name; empty if the file belongs to none.
        file: the file's path.
        kind: of one file: "missing pair", "image without label", "unreadable file", "size", "spacing", "origin",
            "direction", "identity affine", "NaN", "one value", "unknown label value", "empty label", "missing organ
            mask", "overlapping masks", "structure set" or "drawn although unlabelled". Against other organs or cases:
            "left and right", "same label", "same image", "arrangement", "intensities" or "volume".
        found: what is there.
        wanted: what would be right.
        fix: what to do about it.
        severity: an "error" makes the case unfit for training, a "warning" may be meant.
    """

    case: str
    file: str
    kind: str
    found: str
    wanted: str
    fix: str
    severity: Literal["error", "warning"]

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.kind}: found {self.found}; wanted {self.wanted}; fix: {self.fix}"


def error(case: str, file: str | Path, kind: str, found: str, wanted: str, fix: str) -> Fault:
    """Returns a fault that makes the case unfit for training."""
    return Fault(case, str(file), kind, found, wanted, fix, "error")


def warning(case: str, file: str | Path, kind: str, found: str, wanted: str, fix: str) -> Fault:
    """Returns a fault that may be meant."""
    return Fault(case, str(file), kind, found, wanted, fix, "warning")
