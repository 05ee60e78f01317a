"""Errors that a user can mend: one line that names the thing, what was found, what was wanted and the fix."""


class UserError(Exception):
    """A fault in the input, not in the program.

    The command line prints it as one line and exits with status 2; nothing half-written stays behind.

    Args:
        thing: the file, key or argument that is at fault.
        found: what is there.
        wanted: what would be right.
        fix: what to do about it.
    """

    def __init__(self, thing: object, *, found: object, wanted: object, fix: str) -> None:
        self.thing = str(thing)
        self.found = str(found)
        self.wanted = str(wanted)
        self.fix = fix
        text = f"{self.thing}: found {self.found}; wanted {self.wanted}; fix: {fix}"
        super().__init__(" ".join(text.split()))


class DivergedError(UserError):
    """A training whose loss is not finite any more."""
