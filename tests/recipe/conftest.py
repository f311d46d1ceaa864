import pytest

from didact.recipe import load

QUICKSTART = """\
name: quickstart
base: smollm2-135m-instruct
seed: 0
device: auto
stages:
  - corpus:   {domain: python-stdlib, holdout: 0.1}
  - tokenizer: {data: corpus/documents, vocab_size: 8192}
  - pretrain: {data: corpus/documents, objective: causal, tokens: 100k, context: 1024}
  - finetune: {data: corpus/questions, epochs: 1, tune: {lora: {rank: 16}}}
  - evaluate:
      data: {documents: corpus/documents.heldout, answers: corpus/questions.heldout}
      samples: ["What does os.path.join do?"]
      gate: {answers: 2.0}
"""


@pytest.fixture
def quickstart() -> str:
    return QUICKSTART


@pytest.fixture
def reads(tmp_path):
    """Loads a recipe from text, with overrides."""

    def reads(text: str | bytes, *overrides: str):
        path = tmp_path / "r.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, overrides)

    return reads
