"""Failures that a user can mend."""


class UserError(Exception):
    """What went wrong and what to do about it; ends the program with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, hint: str = ""):
        super().__init__(what)
        self.hint = hint

    def __str__(self) -> str:
        what = super().__str__()
        return f"{what} (hint: {self.hint})" if self.hint else what


class UsageError(UserError):
    """A command that cannot be carried out as it was explicit."""

    exit_code = 2


class Interrupted(BaseException):
    """SIGINT or SIGTERM, raised where it is safe to stop. Not an `Exception`: nothing may swallow it."""

    def __init__(self, signal_number: int, note: str = ""):
        super().__init__(note)
        self.signal_number = signal_number
