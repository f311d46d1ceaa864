"""Recipes and command lines that are wrong."""

from tests.battery.case import Case, both, nothing, pretrain, recipe, write

RUN = "run recipe.yaml"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FINETUNE = "{finetune: {data: chats.jsonl, context: 64, max_steps: 1}}"
EVALUATE = "{evaluate: {data: {d: docs.jsonl}}}"
SCRATCH = "{architecture: llama, size: 60k}"
TOKENIZER = "{tokenizer: {data: docs.jsonl, vocab_size: 300}}"
PRETRAIN = "{pretrain: {data: docs.jsonl, context: 32, batch_size: 2, max_steps: 1}}"


def links(settings: str):
    """A recipe that pairs documents without links."""
    return recipe(f"{{links: {{data: docs.jsonl, {settings}}}}}, {PRETRAIN}")


def reward(data: str, more: str = ""):
    """A recipe of one short reward model."""
    return recipe("{reward: {data: " + data + ", context: 32, max_steps: 1" + (more and f", {more}") + "}}")


def reinforce(rewards: str):
    """A recipe that learns from rewards."""
    how = "context: 64, max_steps: 1, forgetting: false, rollout: {group: 2, max_new_tokens: 4}"
    return recipe(f"{{reinforce: {{data: chats.jsonl, {how}, rewards: [{rewards}]}}}}")


thumbs = write("thumbs.jsonl", '{"prompt": "a", "completion": "b", "label": true}\n' * 20)

CASES = [
    # --- the file -------------------------------------------------------------------------------------------
    Case("no recipe", nothing, "run absent.yaml", 2, "absent.yaml: no such recipe"),
    Case("folder", nothing, "run base", 2, "base: a recipe is a file"),
    Case("empty", write("recipe.yaml", ""), RUN, 2, "recipe.yaml: an empty recipe"),
    Case("comment only", write("recipe.yaml", "# soon\n"), RUN, 2, "recipe.yaml: an empty recipe"),
    Case("binary", write("recipe.yaml", b"\x7fELF\x01\x00\x00"), RUN, 2, "recipe.yaml:1: not text"),
    Case("recipe not UTF-8", write("recipe.yaml", b"name: a\nbase: \xff\xfe\n"), RUN, 2, "recipe.yaml:2: not UTF-8"),
    Case("tab", write("recipe.yaml", "name: r\nstages:\n\t- evaluate: {}\n"), RUN, 2, "recipe.yaml:3: not YAML"),
    Case("unclosed", write("recipe.yaml", "name: r\nstages: [\n"), RUN, 2, "recipe.yaml:2: not YAML"),
    Case("duplicate key", write("recipe.yaml", "name: r\nname: s\n"), RUN, 2, "recipe.yaml:2: key 'name' is there"),
    Case("bomb", write("recipe.yaml", BOMB), RUN, 2, "too much for a recipe"),
    Case("deep", write("recipe.yaml", "a: " + "[" * 60 + "]" * 60), RUN, 2, "recipe.yaml:1"),
    Case("large", write("recipe.yaml", "#" + "x" * 70_000), RUN, 2, "larger than 64 KiB"),
    Case("list", write("recipe.yaml", "- a\n- b\n"), RUN, 2, "recipe.yaml:1: a recipe is a mapping"),
    Case("tag", write("recipe.yaml", "name: !!python/object:os.system x\n"), RUN, 2, "recipe.yaml:1: the tag"),
    Case("merge", write("recipe.yaml", "a: &a {x: 1}\nb: {<<: *a}\n"), RUN, 2, "recipe.yaml:2: '<<'"),
    Case("two documents", write("recipe.yaml", "name: r\n---\nname: s\n"), RUN, 2, "a file holds one recipe"),
    # --- what it says ---------------------------------------------------------------------------------------
    Case("no stages", write("recipe.yaml", "name: r\nbase: ./base\n"), RUN, 2, "stages"),
    Case("no base", write("recipe.yaml", f"name: r\nstages: [{PRETRAIN}]\n"), RUN, 2, "base"),
    Case("unknown key", recipe(PRETRAIN, more="sede: 3\n"), RUN, 2, "recipe.yaml:3"),
    Case("unknown stage", recipe("{finetun: {data: docs.jsonl}}"), RUN, 2, "'finetune'"),
    Case("misspelled setting", pretrain("learning_rte: 1e-4"), RUN, 2, "learning_rate"),
    Case("number as word", pretrain("context: many"), RUN, 2, "recipe.yaml:3"),
    Case("negative rate", pretrain("learning_rate: -1"), RUN, 2, "recipe.yaml:3"),
    Case("rate of NaN", pretrain("learning_rate: .nan"), RUN, 2, "recipe.yaml:3"),
    Case("endless epochs", pretrain("epochs: .inf"), RUN, 2, "recipe.yaml:3"),
    Case("no rows", pretrain("batch_size: 0"), RUN, 2, "recipe.yaml:3"),
    Case("unknown precision", pretrain("precision: fp8"), RUN, 2, "recipe.yaml:3"),
    Case("unknown objective", pretrain("objective: casual"), RUN, 2, "did you mean 'causal'?"),
    Case("unknown option", pretrain("objective: {causal: {beta: 1}}"), RUN, 2, "has no option 'beta'"),
    Case("objective of nobody", pretrain("objective: 'nowhere:Mine'"), RUN, 2, "cannot import objective"),
    Case("objective that is none", pretrain("objective: 'json:JSONDecoder'"), RUN, 2, "is not an Objective"),
    Case("name that climbs", recipe(PRETRAIN, name="../up"), RUN, 2, "recipe.yaml:1"),
    Case("name as path", recipe(PRETRAIN, name="/tmp/x"), RUN, 2, "recipe.yaml:1"),
    Case(
        "one name twice",
        recipe("{evaluate: {name: a, samples: [x]}}, {evaluate: {name: a, samples: [y]}}"),
        RUN,
        2,
        "'a'",
    ),
    Case("two ways to tune", pretrain("tune: {what: last, last: 1, lora: {}}"), RUN, 2, "recipe.yaml:3"),
    Case("last of none", pretrain("tune: last"), RUN, 2, "needs the number of layers"),
    Case("too many layers", pretrain("context: 32, tune: {last: 9}"), RUN, 2, "the model has 2 layers"),
    Case("old token", pretrain("context: 32, tune: {tokens: ['a']}"), RUN, 2, "is a token already"),
    Case("LoRA on nothing", pretrain("context: 32, tune: {lora: {targets: [nix]}}"), RUN, 2, "nix"),
    Case("gate on nothing", recipe("{evaluate: {data: {d: docs.jsonl}, gate: {e: 1.0}}}"), RUN, 2, "the sets are: d"),
    Case("gate of zero", recipe("{evaluate: {data: {d: docs.jsonl}, gate: {d: 0}}}"), RUN, 2, "recipe.yaml:3"),
    Case("evaluates nothing", recipe("{evaluate: {}}"), RUN, 2, "'measures' to measure"),
    Case("data and tasks", recipe("{pretrain: {data: docs.jsonl, tasks: [{data: x}]}}"), RUN, 2, "recipe.yaml:3"),
    Case("no data", recipe("{pretrain: {context: 32}}"), RUN, 2, "missing key 'data'"),
    Case("empty path", recipe("{pretrain: {data: ''}}"), RUN, 2, "recipe.yaml:3"),
    Case(
        "output of the future",
        recipe("{pretrain: {data: corpus/documents}}, {corpus: {domain: gutenberg}}"),
        RUN,
        2,
        "move 'corpus' before it",
    ),
    Case(
        "output of nobody",
        recipe("{corpus: {domain: gutenberg}}, {pretrain: {data: corpus/docs}}"),
        RUN,
        2,
        "corpus/documents",
    ),
    Case("unknown domain", recipe("{corpus: {domain: pyhton}}"), RUN, 2, "python-stdlib"),
    Case("unknown device", recipe(PRETRAIN, more="device: gpu\n"), RUN, 2, "recipe.yaml:3"),
    # --- what cannot be done --------------------------------------------------------------------------------
    Case("context beyond positions", pretrain("context: 4096"), RUN, 2, "more than the 128 positions"),
    Case("data twice", pretrain("context: 32, data: chats.jsonl"), RUN, 2, "key 'data' is there twice"),
    Case("few examples", recipe("{pretrain: {data: 'docs.jsonl#1000', context: 32}}"), RUN, 2, "more than the 20"),
    Case("second tokenizer", recipe(f"{TOKENIZER}, {PRETRAIN}"), RUN, 2, "has a tokenizer already"),
    Case("scratch without tokenizer", recipe(PRETRAIN, base=SCRATCH), RUN, 2, "needs a tokenizer"),
    Case("nothing to evaluate", recipe(f"{TOKENIZER}, {EVALUATE}", base=SCRATCH), RUN, 2, "no model to evaluate"),
    Case(
        "scratch with short positions",
        recipe(f"{TOKENIZER}, {PRETRAIN}, {FINETUNE}", base=SCRATCH),
        RUN,
        2,
        "context 64 is more than the 32 of pretrain",
    ),
    Case(
        "unknown architecture",
        recipe(f"{TOKENIZER}, {PRETRAIN}", base="{architecture: lama}"),
        RUN,
        2,
        "no causal or masked language model called 'lama'",
        done=1,
    ),
    Case(
        "unknown field",
        recipe(f"{TOKENIZER}, {PRETRAIN}", base="{architecture: llama, size: 60k, config: {hiden_size: 8}}"),
        RUN,
        2,
        "hidden_size",
        done=1,
    ),
    Case(
        "impossible shape",
        recipe(
            f"{TOKENIZER}, {PRETRAIN}",
            base="{architecture: llama, size: 60k, config: {hidden_size: 10, num_attention_heads: 0}}",
        ),
        RUN,
        2,
        "base.config",
        done=1,
    ),
    Case("unreadable size", recipe(TOKENIZER, base="{architecture: llama, size: 12Q}"), RUN, 2, "recipe.yaml:2"),
    Case("tiny vocabulary", recipe("{tokenizer: {data: docs.jsonl, vocab_size: 8}}"), RUN, 2, "recipe.yaml:3"),
    # --- overrides ------------------------------------------------------------------------------------------
    Case("override without value", nothing, f"{RUN} pretrain.context", 2, "an override is key=value"),
    Case("override of nothing", nothing, f"{RUN} =3", 2, "an override is key=value"),
    Case("override of no stage", nothing, f"{RUN} petrain.context=32", 2, "did you mean"),
    Case("override of no key", nothing, f"{RUN} pretrain.contxt=32", 2, "context"),
    Case("override of wrong type", nothing, f"{RUN} pretrain.context=long", 2, "pretrain.context=long"),
    Case("override that is no YAML", nothing, f"{RUN} pretrain.context=[", 2, "not YAML"),
    Case("override through a number", nothing, f"{RUN} pretrain.context.x=1", 2, "cannot set"),
    # --- the command line -----------------------------------------------------------------------------------
    Case("no such verb", nothing, "rum recipe.yaml", 2, "rum"),
    Case("no argument", nothing, "run", 2, "see didact run --help"),
    Case("no such option", nothing, f"{RUN} --fast", 2, "--fast"),
    Case("no processes", nothing, f"{RUN} --nproc 0", 2, "--nproc"),
    Case("inspect nothing", nothing, "inspect absent.yaml", 2, "no such recipe"),
    Case("inspect a wrong recipe", pretrain("context: many"), "inspect recipe.yaml", 2, "recipe.yaml:3"),
    Case("doctor for nothing", nothing, "doctor absent.yaml", 2, "no such recipe"),
    Case("chat with nobody", nothing, "chat absent/", 3, "no such checkpoint"),
    Case("chat about nothing", nothing, "chat base --prompt=", 2, "the prompt is empty"),
    Case("chat too cold", nothing, "chat base --prompt x --temperature -1", 2, "--temperature"),
    Case("chat on no device", nothing, "chat base --prompt x --device tpu", 2, "tpu"),
    # --- links ----------------------------------------------------------------------------------------------
    Case("relation twice", links("relations: [linked, linked]"), RUN, 2, "each relation counts once"),
    Case("unknown relation", links("relations: [near]"), RUN, 2, "recipe.yaml:3"),
    Case("unknown graph", links("graph: webb"), RUN, 2, "recipe.yaml:3"),
    Case("no links", links("relations: [linked]"), RUN, 3, "docs.jsonl: no document points at another; set graph"),
    Case("one segment a document", links("graph: neighbours"), RUN, 3, "can be first in a pair of every relation"),
    Case(
        "relations of plain documents",
        pretrain("context: 32, objective: linked"),
        RUN,
        2,
        "reads pairs of texts; give it what a links stage leaves",
    ),
    # --- rewards --------------------------------------------------------------------------------------------
    Case("nothing was judged", reward("docs.jsonl"), RUN, 3, "docs.jsonl: this learns from judgements"),
    Case("answers judged alone", both(thumbs, reward("thumbs.jsonl")), RUN, 3, "form: ratings"),
    Case("reward of no form", reward("docs.jsonl", "objective: {reward: {form: pair}}"), RUN, 2, "no form 'pair'"),
    Case("reward in tasks", recipe("{reward: {tasks: [{data: a, objective: reward}]}}"), RUN, 2, "has no mixture"),
    Case("reward that shows forgetting", reward("docs.jsonl", "forgetting: true"), RUN, 2, "leave it out"),
    Case("reward of no kind", reinforce("{regexp: x}"), RUN, 2, "one of regex, function, json"),
    Case("misspelled reward", reinforce("{tests: {secnds: 3}}"), RUN, 2, "did you mean 'seconds'?"),
    Case("no regular expression", reinforce("{regex: '('}"), RUN, 2, "not a regular expression"),
    Case("two rewards of one name", reinforce("{regex: {pattern: a, name: n}}, {json: {name: n}}"), RUN, 2, "'n'"),
    Case("function that is not there", reinforce("{function: 'json:lods'}"), RUN, 2, "cannot import reward"),
    Case("schema of no type", reinforce("{json: {type: object}}"), RUN, 2, "unknown key 'type'"),
]
