"""Left and right in the names of organs."""

import re
from collections.abc import Iterable

_SIDES = {"l": "r", "lt": "rt", "left": "right"}
_OTHER = _SIDES | {right: left for left, right in _SIDES.items()}
_BREAK = re.compile(r"([\W_]+|(?<=[a-z0-9])(?=[A-Z]))")


def mirror_name(organ: str) -> str:
    """Names the same organ of the other side.

    Args:
        organ: with L, R, Lt, Rt, left or right as a word of its own, as in Parotid_L, left kidney or LungRight.

    Returns:
        The other side's name in lower case; the organ's own in lower case if it tells no side.
    """
    return "".join(_OTHER.get(word.lower(), word.lower()) for word in _BREAK.split(organ))


def left_right_pairs(organs: Iterable[str]) -> list[tuple[str, str]]:
    """Finds paired organs by their names.

    Args:
        organs: names.

    Returns:
        The left and the right organ of each pair, in the order of the left ones.
    """
    by_name = {organ.lower(): organ for organ in organs}
    return [
        (organ, by_name[mirror_name(organ)])
        for organ in by_name.values()
        if mirror_name(organ) in by_name and any(word.lower() in _SIDES for word in _BREAK.split(organ))
    ]
