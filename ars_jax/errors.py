"""Errors that a user can mend: one line that names the thing, what was found, what was wanted and the fix."""

_LONGEST = 1000


class UserError(Exception):
    """A fault in the input, not in the program.

    The command line prints it as one line and exits with status 2; nothing half-written stays behind. Found and wanted
    are cut where they are longer than anybody reads, and what would steer a terminal is written out.

    Args:
        thing: the file, key or argument that is at fault.
        found: what is there.
        wanted: what would be right.
        fix: what to do about it.
    """

    def __init__(self, thing: object, *, found: object, wanted: object, fix: str) -> None:
        self.thing = str(thing)
        self.found = _short(str(found))
        self.wanted = _short(str(wanted))
        self.fix = fix
        text = f"{self.thing}: found {self.found}; wanted {self.wanted}; fix: {fix}"
        super().__init__(printable(" ".join(text.split())))


def as_told(error: BaseException) -> UserError | None:
    """Says in one line what is no fault of the program, though nobody asked about it before it was raised.

    Args:
        error: anything that was raised.

    Returns:
        It, where it is a `UserError`; one that stands for a file that cannot be used, or memory that is short, of the
        host or of a device; None for all else.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        thing, found = error.filename or "a file", error.strerror or error
        return UserError(thing, found=found, wanted="what can be read and written", fix="check path and rights")
    if isinstance(error, MemoryError):
        return UserError("memory", found=error, wanted="enough of it", fix="smaller volumes, canvas or batch")
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        fix = "model.remat, train.accumulate, a smaller canvas or batch, or more devices; ars-jax plan says what fits"
        return UserError("memory of the device", found=str(error), wanted="enough of it", fix=fix)
    return None


def printable(text: str) -> str:
    """Writes out letters that have no picture, such as the escape that terminals obey, and bytes that are no text."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} letters)"


class DivergedError(UserError):
    """A training whose loss is not finite any more."""


class StoppedError(SystemExit):
    """A training that was told to end, and can be gone on with; no fault, so that `except Exception` lets it by.

    Args:
        text: says by whom, and what was saved.
    """

    STATUS = 75
    """The exit status: EX_TEMPFAIL of sysexits.h, for schedulers that start a job again."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(self.STATUS)
