"""What decides an index besides its documents, and which files it reads."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from didact.settings import Settings

KINDS: Mapping[str, tuple[str, ...]] = {
    "text": (".txt", ".text", ".rst", ".tex", ".log"),
    "markdown": (".md", ".markdown"),
    "html": (".html", ".htm", ".xhtml"),
    "pdf": (".pdf",),
    "docx": (".docx",),
    "notebook": (".ipynb",),
    "code": (
        *(".py", ".pyi", ".js", ".mjs", ".jsx", ".ts", ".tsx", ".java", ".kt", ".scala", ".c", ".h", ".cc", ".cpp"),
        *(".hpp", ".cs", ".go", ".rs", ".rb", ".php", ".swift", ".m", ".r", ".jl", ".lua", ".pl", ".sh", ".sql"),
    ),
}
"""The suffixes of each kind of document; records (.jsonl, .parquet ...) are read as everywhere in Didact."""

SUFFIXES = {suffix: kind for kind, suffixes in KINDS.items() for suffix in suffixes}
OVERLAP = 3  # a passage repeats at most this fraction of one


class Indexing(Settings):
    """How documents are cut and embedded.

    ``embedder`` is ``none`` for words alone, ``model`` for the recipe's model so far, or what ``didact embed`` takes: a
    run, a checkpoint folder, an asset. ``size`` bounds a passage, ``overlap`` what it repeats of the one before it
    where both are cut out of one stretch of text.
    """

    embedder: str = Field(default="all-minilm-l6-v2", min_length=1)
    size: int = Field(default=1200, ge=80, le=100_000, description="characters of a passage, at most")
    overlap: int = Field(default=150, ge=0, description="characters that a passage repeats of the one before it")

    @model_validator(mode="after")
    def overlap_fits(self) -> "Indexing":
        """A passage that repeats half of the one before it would hardly go on."""
        if self.overlap > self.size // OVERLAP:
            raise ValueError(f"overlap {self.overlap} is more than a third of size {self.size}")
        return self
