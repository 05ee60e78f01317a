"""What a data set is: cases, each one image and what was drawn on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ars_jax.errors import UserError


@dataclass(frozen=True)
class Case:
    """One image and what was drawn on it: a label map, masks or a structure set.

    Args:
        name: the case's name in its data set.
        image: a file, or a folder of one DICOM series.
        label: the label map, or
        masks: one mask per organ (organ name to file), in the order of the data set's labels, or
        structures: a DICOM structure set (RTSTRUCT), of which
        contours: gives the names that an organ's contours may carry in it, in the order of the data set's labels.
        unlabelled: organs that were not drawn on this image, as the data set's `unlabelled.json` says.
        others: values of the label map that the data set knows but that were not chosen; they are background.
        fault: why it is not known which files are the case's. One of those in question then stands as `structures`,
            and reading it raises the fault: a check can name it beside others, a training stops.
    """

    name: str
    image: Path
    label: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)
    structures: Path | None = None
    contours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    others: tuple[int, ...] = ()
    fault: UserError | None = None

    @property
    def labelled(self) -> bool:
        """Whether there is a label map, at least one mask or a structure set."""
        return self.label is not None or bool(self.masks) or self.structures is not None


@dataclass(frozen=True)
class Dataset:
    """All cases of a folder.

    Args:
        root: the folder.
        layout: "msd", "folders", "btcv", "lits", "pddca" or "dicom".
        labels: organ names with their values on disk, without background. The k-th name is channel k + 1; of masks and
            contours the values mean nothing.
        cases: sorted by name, also those without a label.
        orphans: label files without an image, and images that `dataset.json` lists but that are not there.
    """

    root: Path
    layout: str
    labels: Mapping[str, int]
    cases: tuple[Case, ...]
    orphans: tuple[Path, ...] = ()
