"""``didact run``: the recipe, its life, and what is shown of it at the end."""

from collections.abc import Callable, Sequence
from pathlib import Path

from didact.engine.mesh import join
from didact.recipe import dump, load
from didact.run.folder import replace, run_folder
from didact.run.life import Life
from didact.run.summary import close


def run_recipe(path: Path, overrides: Sequence[str], runs: Path, say: Callable[[str], None]) -> list[str]:
    """Runs a recipe to its end; returns the gates it failed."""
    loaded = load(path, overrides)
    mesh = join(loaded.recipe.device)
    talk = say if mesh.main else _silent
    for line in loaded.said:
        talk(line)
    folder = run_folder(runs, loaded.recipe.name)
    if mesh.main:
        replace(folder / "recipe.yaml", dump(loaded.recipe))
    finished = Life(loaded.recipe, folder, mesh, talk).run()
    if mesh.main:
        close(loaded.recipe, folder, finished, talk)
    return [line for stage in finished for line in stage.artifact.facts.get("breaches", [])]


def _silent(line: str) -> None:
    """What every process but the first says."""
