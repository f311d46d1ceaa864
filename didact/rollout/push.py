"""Weights on their way to an engine behind a URL: written to a folder that both read, then named to the engine.

What is posted is read off the sources of vLLM 0.33 and SGLang 0.5.23, and is what ``didact serve --weights`` takes: a
path, never the weights themselves. Each path is a new one: by it vLLM knows which adapter has read a cached prompt.
"""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from didact.errors import ResourceProblem, UsageProblem
from didact.model.folder import write_folder
from didact.model.lora import save_adapter
from didact.model.model import Model
from didact.model.save import write_model
from didact.rollout.settings import Rollout
from didact.rollout.wire import posted
from didact.text.render import Renderer

Call = tuple[str, dict[str, Any]]  # a path of the engine, and what is posted there
UNLOAD = "/unload_lora_adapter"
HOW = {  # starts an engine that loads weights while it runs: one with adapters, one with whole models
    "didact": ("didact serve --weights {0}",) * 2,
    "vllm": ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve --enable-lora", "VLLM_SERVER_DEV_MODE=1 vllm serve"),
    "sglang": ("--enable-lora --max-lora-rank --lora-target-modules", "an engine of this very architecture"),
}


class Push:
    """Sends the policy of a stage to the engine that answers at ``rollout.url``.

    In ``rollout.folder`` the policy that was sent last stays, under a name that begins with the stage's mark; nothing
    of another name is touched.
    """

    def __init__(self, rollout: Rollout, stage: Path, renderer: Renderer):
        assert rollout.url
        assert rollout.folder
        assert rollout.push
        self.root, self.model, self.kind = rollout.url.rstrip("/").removesuffix("/v1"), rollout.model, rollout.push
        self.folder, self.renderer = Path(os.path.abspath(Path(rollout.folder).expanduser())), renderer
        self.mark = f"policy-{hashlib.sha256(os.path.abspath(stage).encode()).hexdigest()[:8]}"

    def __call__(self, policy: Model, adapter: bool, number: int) -> None:
        """Sends the weights of phase ``number``, as an ``adapter`` where nothing but a LoRA is trained.

        Raises ResourceProblem where the folder cannot be written, or the engine does not load from it.
        """
        path = self.folder / f"{self.mark}-{number:08d}-{uuid.uuid4().hex[:8]}"
        calls = self._calls(path, adapter)
        with write_folder(path) as fresh:
            if adapter:
                save_adapter(policy.net, fresh, policy.net.name_or_path or self.model)
            else:
                write_model(policy.net, self.renderer.tokenizer, fresh, self.renderer.stops)
        for call in calls:
            self._tell(*call, adapter)
        for old in [*self.folder.glob(f"{self.mark}-*"), *self.folder.glob(f".{self.mark}-*")]:
            if old != path:
                shutil.rmtree(old, ignore_errors=True)

    def _calls(self, path: Path, adapter: bool) -> list[Call]:
        match self.kind, adapter:
            case "vllm" | "didact", True:
                asked = {"lora_name": self.model, "lora_path": str(path), "load_inplace": True}
                return [("/v1/load_lora_adapter", asked)]
            case "sglang", True:
                name = self.model.partition(":")[2]
                if not name:
                    what = f"an adapter in SGLang is asked for as MODEL:ADAPTER, not {self.model!r}"
                    raise UsageProblem(what, where="rollout.model", remedy=f"write {self.model}:policy")
                asked = {"lora_name": name, "lora_path": str(path)}
                return [(UNLOAD, {"lora_name": name}), ("/load_lora_adapter", asked)]
            case "vllm", _:
                reload = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}
                return [("/collective_rpc", reload), ("/reset_prefix_cache", {})]
            case "didact", _:
                return [("/update_weights_from_disk", {"model_path": str(path), "model": self.model})]
            case _:
                return [("/update_weights_from_disk", {"model_path": str(path)})]

    def _tell(self, at: str, asked: dict[str, Any], adapter: bool) -> None:
        where = self.root + at
        how = HOW[self.kind][not adapter].format(self.folder)
        remedy = f"start it with {how}, where it reads {self.folder} under this very path"
        try:
            said = posted(where, asked)
        except HTTPError as error:
            if at == UNLOAD and error.code == 400:  # it had none yet
                return
            if error.code in (401, 403):
                remedy = "put a key that may load weights into DIDACT_ROLLOUT_KEY"
            what = f"the engine did not load the weights ({error.code}: {error.read(300).decode(errors='replace')})"
            raise ResourceProblem(what, where=where, remedy=remedy) from error
        except OSError as error:
            what, remedy = f"the engine cannot be asked ({error})", "start the server, or mend rollout.url"
            raise ResourceProblem(what, where=where, remedy=remedy) from error
        if b'"success"' in said and not json.loads(said)["success"]:
            what = f"the engine did not load the weights ({said[:300].decode()})"
            raise ResourceProblem(what, where=where, remedy=remedy)
