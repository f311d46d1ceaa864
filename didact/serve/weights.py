"""Weights that are loaded while the server runs, from one folder: vLLM's path for adapters, SGLang's for a whole model.

They take their place between two steps. Answers under way end with the weights that they began with.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictBool
from transformers import PreTrainedModel

from didact.model import lora
from didact.model.load import ADAPTER, load
from didact.model.model import Model
from didact.run.named import Named
from didact.serve.asked import Body
from didact.serve.errors import Refused
from didact.serve.lane import lane
from didact.serve.served import Served
from didact.serve.state import State

TRAINER = "trainer"  # whose key may load weights, where keys are
Name = Annotated[str, Field(min_length=1, max_length=256)]
Where = Annotated[str, Field(min_length=1, max_length=4096)]


class AdapterAsked(Body):
    """``/v1/load_lora_adapter``, as vLLM has it."""

    lora_name: Name
    lora_path: Where
    load_inplace: StrictBool = False


class WeightsAsked(Body):
    """``/update_weights_from_disk``, as SGLang has it; ``model`` is which, the first where none is named."""

    model_path: Where
    model: Name | None = None


def adapted(base: Named, folder: Path) -> Named:
    """The base with a LoRA beside it; all weights but the LoRA's own are the base's, in memory once."""
    other = lora.sharing(base.model.net)
    lora.load_adapter(other, folder)
    return Named(folder, Model(other), base.renderer)


def router(state: State, root: Path) -> APIRouter:
    """The endpoints; ``root`` is the folder that weights may come from."""
    routes = APIRouter()

    def inside(request: Request, given: str) -> Path:
        """The folder a request names. Raises Refused for another's key, and for one that is not in ``root``."""
        if state.keys and state.keys.owner(request.headers["authorization"].partition(" ")[2].strip()) != TRAINER:
            raise Refused(f"only the key of {TRAINER!r} may load weights", 403, code="weights_not_allowed")
        refused = Refused(f"{given!r} is no folder in the one that weights may come from", param="path")
        try:
            path = (root / given).resolve()
            if path.is_relative_to(root.resolve()) and path.is_dir():
                return path
        except (OSError, ValueError) as error:  # a name that no file can have
            raise refused from error
        raise refused

    async def placed(name: str, made: Callable[[], Served]) -> None:
        """Makes a model between two steps, and serves it under its name from then on."""

        def make() -> Served:
            gc.collect()  # what was replaced before goes first
            with torch.inference_mode(False):
                return made()

        state.models[name] = await state.engine.call(make)

    @routes.post("/v1/load_lora_adapter")
    async def load_lora_adapter(asked: AdapterAsked, request: Request) -> Response:
        """A LoRA of the first model, under a name of its own; with ``load_inplace`` in the place of an older one."""
        path, base, old = inside(request, asked.lora_path), state.served(None), state.models.get(asked.lora_name)
        if not (path / ADAPTER).is_file():
            raise Refused(f"there is no {ADAPTER} in that folder", param="lora_path")
        if old and old.base is None:
            raise Refused(f"{asked.lora_name!r} is a model, no adapter", param="lora_name")
        if old and not asked.load_inplace:
            raise Refused(f"{asked.lora_name!r} is loaded; with load_inplace it is replaced", param="lora_name")

        def made() -> Served:
            with base.writes.plain():
                named = adapted(base.named, path)
            return Served(asked.lora_name, named, lane(named, base.writes.longest), base)

        await placed(asked.lora_name, made)
        return Response(f"Success: LoRA adapter '{asked.lora_name}' added successfully.", media_type="text/plain")

    @routes.post("/update_weights_from_disk")
    async def update_weights_from_disk(asked: WeightsAsked, request: Request) -> dict[str, Any]:
        """Other weights for a model; its tokenizer and its way to answer stay."""
        path, old = inside(request, asked.model_path), state.served(asked.model)
        if old.base or any(one.base is old for one in state.models.values()):
            raise Refused(f"{old.name!r} is an adapter, or has one beside it", param="model")
        if (path / ADAPTER).exists():
            raise Refused("these are the weights of an adapter; see /v1/load_lora_adapter", param="model_path")

        def made() -> Served:
            net, now = old.named.model.net, load(path, old.named.model.net.dtype)
            if _shapes(now) != _shapes(net):
                raise Refused(f"these are not weights of {old.name!r}: others, or of other shapes", param="model_path")
            named = Named(path, Model(now).to(net.device), old.named.renderer)
            return Served(old.name, named, lane(named, old.lane.longest) if old.lane else None)

        await placed(old.name, made)
        return {"success": True, "message": f"{old.name} has the weights of {path.name}"}

    return routes


def _shapes(net: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in net.named_parameters()}
