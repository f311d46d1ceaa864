"""What a user is told when something is wrong: one line, and the exit code of its kind."""


class Problem(Exception):
    """A mistake with a remedy, printed as ``where: what; remedy`` and never as a traceback.

    ``where`` names the place as the user knows it: ``file:line``, a recipe key, a stage.
    """

    code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = ""):
        self.what, self.where, self.remedy = what, where, remedy
        line = f"{where}: {what}" if where else what
        super().__init__(f"{line}; {remedy}" if remedy else line)


class UsageProblem(Problem):
    """The recipe or the command line is wrong."""

    code = 2


class DataProblem(Problem):
    """Input data (documents, checkpoints, tokenizers) is wrong."""

    code = 3


class ResourceProblem(Problem):
    """Disk, memory, device or permission is missing."""

    code = 4


class MissingExtra(Problem):
    """An optional dependency is not installed; the remedy is its install line."""

    code = 5

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs {package}", remedy=f"pip install 'didact[{extra}]'")


class Diverged(Problem):
    """Training left the road: non-finite or exploding loss that a rollback did not mend."""

    code = 6


class GateFailed(Problem):
    """An audit or an evaluation gate said no."""

    code = 7


class Preempted(Problem):
    """The run was asked to stop and has saved; running it again resumes."""

    code = 75
