"""A resolved recipe as YAML: every default written out, so that a later version reads the same run."""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from didact.data.settings import Data, Source
from didact.model.settings import Tune
from didact.recipe.learning import ObjectiveSpec
from didact.recipe.measured import MeasureSpec
from didact.recipe.schema import Recipe
from didact.recipe.stage import Stage
from didact.rollout.reward.base import Rewarding
from didact.settings import Settings


class _Representer(SafeRepresenter):
    """Quotes text with line breaks and other invisible characters, some of which ruamel writes bare and reads away."""

    def text(self, data: str) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Representer.add_representer(str, _Representer.text)


def dump(recipe: Recipe) -> str:
    """YAML that ``load`` reads back as an equal recipe.

    A stage's seed is left out where it is the recipe's, so that ``--override seed=3`` still reaches it.
    """
    shape = _plain(recipe)
    for stage, shaped in zip(recipe.stages, shape["stages"], strict=True):
        if stage.seed == recipe.seed:
            del shaped[stage.kind]["seed"]
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.sort_base_mapping_type_on_output = False
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 10_000
    out = io.StringIO()
    yaml.dump(shape, out)
    return out.getvalue()


def _plain(value: Any) -> Any:
    """Settings as the shortest form a recipe accepts; what is None is left out, since None is its default."""
    match value:
        case Stage() | Rewarding():
            return {value.kind: _fields(value)}
        case ObjectiveSpec(name=name, options=options) if name != "name":  # {name: x} is the full form
            return {name: options} if options else name
        case MeasureSpec(kind=kind, data=data, limit=limit, options=options):
            own = {"data": _plain(data), **({} if limit is None else {"limit": limit})}
            return {kind: own | dict(options)}
        case Data(sources=sources):
            short = [_plain(source) for source in sources]
            return short[0] if len(short) == 1 else short
        case Source(path=path, weight=1.0, sample=None) if "#" not in path:
            return path
        case Tune(what="all" | "head" as what, tokens=()):
            return what
        case Tune(what="all"):
            return {"what": "all", "tokens": _plain(value.tokens)}
        case Tune(what=what):
            own = {what: _plain(getattr(value, what))}
            return own | {"tokens": _plain(value.tokens)} if value.tokens else own
        case Settings():
            return _fields(value)
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def _fields(settings: Settings) -> dict[str, Any]:
    """Every field that is not None, under its name."""
    return {name: _plain(item) for name in type(settings).model_fields if (item := getattr(settings, name)) is not None}
