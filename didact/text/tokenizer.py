"""Tokenizers: load one, train one, save one so that every engine reads the same ids."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from didact.errors import DataProblem, ResourceProblem, UsageProblem
from didact.text.template import CHATML
from didact.vocabulary import Vocabulary

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
MASK = "<|mask|>"
SPECIALS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
BYTES = 256
SPACES = "\u0120\u010a\u0109\u010d\u2581"  # how byte-level vocabularies and SentencePiece write white space

# What llama.cpp calls this split. Its converter knows splits by hashing the ids of a test text, which a new
# vocabulary changes, so an export writes the name into tokenizer.ggml.pre itself.
LLAMA_CPP_PRE = "qwen2"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Texts on which loaders are known to disagree: leading and doubled spaces, special tokens next to text, scripts.
PROBES = (
    "Hello world",
    " lead",
    "  two  spaces\n\n\nnew\tline",
    "na\u00efve 日本語 😀 12345",
    "a</s>b<s> c<|im_end|>d",
)
FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "additional_chat_templates/*")
LEGACY = ("vocab.json", "merges.txt", "vocab.txt", "*.model", "config.json")


def load(name: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or a hub id; never runs its code.

    Where there is a ``tokenizer.json`` it is the truth: transformers 5 rebuilds some families (Llama 2, Yi)
    from their vocabulary with other spacing rules, and such a rebuilt tokenizer is set aside.
    Raises DataProblem for broken or missing files, ResourceProblem when the hub cannot be reached.
    """
    folder = Path(name) if Path(name).exists() else _fetched(str(name))
    config, file = _config(folder), folder / "tokenizer.json"
    if not file.exists():
        return _fast(AutoTokenizer, folder)
    raw = _raw(file)
    if "auto_map" in config:  # names code of its own, which we do not run and do not need
        return _fast(PreTrainedTokenizerFast, folder)
    tokenizer = _fast(AutoTokenizer, folder)
    return tokenizer if _agrees(tokenizer, raw) else _fast(PreTrainedTokenizerFast, folder)


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES, *LEGACY]))
    except (HFValidationError, RepositoryNotFoundError):
        raise DataProblem(
            "there is no such folder and no such model on the hub", where=name, remedy="check the spelling"
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise ResourceProblem(
            f"there is no such folder, and the hub did not answer ({_line(error)})",
            where=name,
            remedy="give the path of a folder, or connect",
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, once every JSON file of the tokenizer is known to parse."""
    if not folder.is_dir():
        raise DataProblem("this is a file", where=str(folder), remedy="a tokenizer is a folder with a tokenizer.json")
    if not any(file for pattern in ("tokenizer*", "vocab*", "*.model") for file in folder.glob(pattern)):
        raise DataProblem("no tokenizer in this folder", where=str(folder), remedy="it should hold a tokenizer.json")
    config = {}
    for file in ("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "tokenizer_config.json"):
        config = _json(folder / file) if (folder / file).exists() else {}
    return config


def _json(file: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        where = f"{file}:{error.lineno}"
        raise DataProblem(
            f"not JSON ({error.msg})", where=where, remedy="the file is cut off or broken: fetch it again"
        ) from error
    except OSError as error:
        raise ResourceProblem(f"cannot be read ({error.strerror})", where=str(file)) from error
    if not isinstance(content, dict):
        raise DataProblem("not a JSON object", where=str(file), remedy="fetch the file again")
    return content


def _raw(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library has no exception class of its own
            raise
        raise DataProblem(
            f"not a tokenizer ({_line(error)})", where=str(file), remedy="fetch the file again"
        ) from error


def _fast(kind: type, folder: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = kind.from_pretrained(str(folder), trust_remote_code=False)
    except (ValueError, OSError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise DataProblem(
            f"transformers cannot load this tokenizer ({_line(error)})",
            where=str(folder),
            remedy="a tokenizer.json and a tokenizer_config.json are enough",
        ) from error
    if not tokenizer.is_fast:
        raise DataProblem(
            "this tokenizer is not one of the tokenizers library, which says where in the text a token stands",
            where=str(folder),
            remedy="convert it to a tokenizer.json",
        )
    return tokenizer


def _agrees(tokenizer: PreTrainedTokenizerFast, raw: Tokenizer) -> bool:
    """Whether the tokenizer gives the ids that its own ``tokenizer.json`` gives.

    Asked on texts that are known to part loaders and on one made of the vocabulary's own words, without special
    tokens, which the configuration may have added beside the file.
    """
    special, size = set(tokenizer.all_special_ids), raw.get_vocab_size()
    words = raw.decode([n for n in range(0, size, 1 + size // 4096) if n not in special])
    texts = [text for text in (*PROBES, words) if not any(token in text for token in tokenizer.all_special_tokens)]
    ours = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    return ours == [raw.encode(text, add_special_tokens=False).ids for text in texts]


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def train(
    texts: Iterable[str], vocab_size: int, specials: Sequence[str] = (), model_max_length: int = 1 << 20
) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) on texts: lossless for any text, the same every time.

    ``specials`` come after the three of ChatML. ``<|im_end|>`` ends turns and documents alike, so that the one
    end-of-sequence id stops every engine; ``<|endoftext|>`` pads. A small corpus may give fewer tokens than
    ``vocab_size``: ``len(tokenizer)`` says how many. Raises UsageProblem for a vocabulary too small to hold the
    bytes, DataProblem for a corpus without text.
    """
    names = list(dict.fromkeys([*SPECIALS, *specials]))
    if vocab_size < BYTES + len(names):
        raise UsageProblem(
            f"a vocabulary of {vocab_size} is too small: {BYTES} bytes and {len(names)} special tokens come first",
            remedy=f"ask for at least {BYTES + len(names)}, usually 4096 or more",
        )
    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    core.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_some(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[name for name in names if name not in (END_OF_TURN, END_OF_TEXT)],
        chat_template=CHATML,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )


def _some(texts: Iterable[str]) -> Iterator[str]:
    """The texts, once it is known that one of them says something."""
    silent = True
    for text in texts:
        silent = silent and not text.strip()
        yield text
    if silent:
        raise DataProblem("no text to train a tokenizer on", remedy="give at least one document with text")


def with_mask(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, given the mask token ``<|mask|>`` where it has none of its own."""
    if tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": MASK})
    return tokenizer


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    """What an objective may know of the tokens.

    A word begins at a token with a space before it, at one that is no letter or digit, and in WordPiece at every one
    without ``##``.
    """
    size = max(tokenizer.get_vocab().values()) + 1
    special, begins = torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
    special[torch.tensor(sorted({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}), dtype=torch.int64)] = (
        True
    )
    wordpiece = any(token.startswith("##") for token in tokenizer.get_vocab())
    for token, number in tokenizer.get_vocab().items():
        goes_on = token.startswith("##") if wordpiece else token[:1].isalnum() and token[0] not in SPACES
        begins[number] = bool(special[number]) or not goes_on
    mask = -1 if tokenizer.mask_token_id is None else int(tokenizer.mask_token_id)
    return Vocabulary(size, mask, special, begins)


def save(
    tokenizer: PreTrainedTokenizerFast, folder: str | Path, model_max_length: int, template: str | None = None
) -> None:
    """Writes the folder's tokenizer files as transformers 4 and 5, vLLM and llama.cpp read them.

    Transformers 5 alone would name a class that older engines lack, and a length of 1e30. ``template`` is the chat
    template of a tokenizer without one (``Renderer.template``). Raises DataProblem if what was written reads back
    with other ids, OSError where the disk refuses.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
    try:
        tokenizer.save_pretrained(str(folder))
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library has no class of its own for a disk that refuses
            raise
        raise OSError(_line(error)) from error
    chosen = tokenizer.chat_template or template
    config = _json(folder / "tokenizer_config.json")
    for own in ("backend", "is_local", "local_files_only", "auto_map"):  # transformers' notes to itself
        config.pop(own, None)
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model_max_length}
    if isinstance(chosen, str):
        config["chat_template"] = chosen
        (folder / "chat_template.jinja").write_text(chosen, encoding="utf-8")
    elif chosen:
        config["chat_template"] = [{"name": name, "template": text} for name, text in chosen.items()]
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
    _same(tokenizer, folder, chosen)


def _same(tokenizer: PreTrainedTokenizerFast, folder: Path, template: str | dict[str, str] | None) -> None:
    """Proves that the folder holds this tokenizer."""
    again = _fast(AutoTokenizer, folder)
    ids = [[kind(text)["input_ids"] for text in PROBES] for kind in (tokenizer, again)]
    ends = [(kind.eos_token_id, kind.pad_token_id, kind.bos_token_id, len(kind)) for kind in (tokenizer, again)]
    if ids[0] != ids[1] or ends[0] != ends[1] or again.chat_template != (template or None):
        raise DataProblem(
            "the saved tokenizer reads back differently", where=str(folder), remedy="report this tokenizer"
        )
