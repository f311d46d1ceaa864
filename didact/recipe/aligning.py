"""The stage that learns from what people said of answers that are there already."""

from typing import Any, Literal

from pydantic import Field, model_validator

from didact.recipe.learning import Learning, ObjectiveSpec, usual

FEEDBACK = "feedback"
THUMBS = ("kto",)  # objectives that learn from thumbs
RANKINGS = ("pl_dpo",)  # and from whole rankings; the others from pairs


class Align(Learning):
    """Learns from judged answers: pairs, rankings, ratings of one prompt, edits and thumbs; one epoch unless said.

    Data are records of ``prompt`` with ``chosen`` and ``rejected``, ``completions`` and ``ranking``, or ``completion``
    and ``label`` or ``rating``; ``feedback`` alone means thumbs for ``kto``, rankings for ``pl_dpo``, and pairs (edits
    are better than what they replace) for the others. ``annotators: dawid_skene`` weighs each judgement by how reliable
    its annotator is found to be where several judged the same. The learning rate is 1e-6, or 2e-5 for a LoRA.
    """

    kind = "align"
    objective: ObjectiveSpec | None = usual("dpo")
    forgetting: bool = True
    overlong: Literal["drop", "window"] = "drop"
    learning_rate: float = Field(default_factory=lambda given: 2e-5 if given["tune"].what == "lora" else 1e-6, gt=0)
    annotators: Literal["alike", "dawid_skene"] = Field(default="alike", description="how much each one's word counts")

    @model_validator(mode="before")
    @classmethod
    def what_feedback_means(cls, value: Any) -> Any:
        """Says which kind of feedback is meant where the recipe does not."""
        if not isinstance(value, dict):
            return value
        given = value.get(cls.kind) if list(value) == [cls.kind] else value  # the base takes it off after this
        if not isinstance(given, dict):
            return value
        if isinstance(given.get("tasks"), list | tuple):
            return given | {"tasks": [_meant(one) if isinstance(one, dict) else one for one in given["tasks"]]}
        return _meant(given)


def _meant(given: dict[str, Any]) -> dict[str, Any]:
    data, objective = given.get("data"), given.get("objective", "dpo")
    name = next(iter(objective), "") if isinstance(objective, dict) else objective
    kind = "thumbs" if name in THUMBS else "rankings" if name in RANKINGS else "preferences"
    if isinstance(data, list | tuple):
        return given | {"data": [_kind(one, kind) for one in data]}
    return given if data is None else given | {"data": _kind(data, kind)}


def _kind(source: Any, kind: str) -> Any:
    """``feedback``, ``feedback@store`` and ``feedback#count`` with their kind, also as a mapping with ``path``."""
    if isinstance(source, dict) and "path" in source:
        return source | {"path": _kind(source["path"], kind)}
    if isinstance(source, str) and source[len(FEEDBACK) :][:1] in ("", "@", "#") and source.startswith(FEEDBACK):
        return f"{FEEDBACK}:{kind}{source.removeprefix(FEEDBACK)}"
    return source
