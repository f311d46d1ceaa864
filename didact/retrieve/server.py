"""An index in a PostgreSQL server, for more passages or more readers than one file is good for.

It has a schema of its own, ``didact_index`` or what the URL names after ``#``. Words are found by BM25 over a table of
them, as FTS5 counts it; vectors lie beside and are compared by whoever searches, exactly as with a file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, LiteralString, cast
from urllib.parse import urlsplit

from didact.errors import MissingExtra, ResourceProblem, UsageProblem
from didact.retrieve.store import FROM, Base, Row, Store

try:
    import psycopg
    from psycopg import errors
except ImportError as error:
    raise MissingExtra("psycopg", "postgres", "an index in PostgreSQL") from error

OURS = "an index of didact"  # the comment of a schema that we may delete
LONGEST = 255  # characters of a word that count
PATIENCE = "2s"  # for the lock of a build that was killed just now
K1, B = 1.2, 0.75  # of BM25, as in FTS5
TABLES = """
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE file (id BIGINT GENERATED ALWAYS AS IDENTITY, path TEXT PRIMARY KEY, sha256 TEXT NOT NULL,
    size BIGINT NOT NULL, problem TEXT NOT NULL);
CREATE TABLE document (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, file TEXT NOT NULL, source TEXT NOT NULL,
    title TEXT NOT NULL, kind TEXT NOT NULL, text_sha256 TEXT NOT NULL, sha256 TEXT NOT NULL, seal TEXT NOT NULL,
    UNIQUE (file, source));
CREATE TABLE chunk (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document BIGINT NOT NULL REFERENCES document, heading TEXT NOT NULL, about TEXT NOT NULL, text TEXT NOT NULL,
    start BIGINT NOT NULL, stop BIGINT NOT NULL, length BIGINT NOT NULL);
CREATE INDEX chunk_document ON chunk (document);
CREATE INDEX document_text ON document (text_sha256);
CREATE TABLE vector (number BIGINT PRIMARY KEY REFERENCES chunk, data BYTEA NOT NULL);
CREATE TABLE word (lexeme TEXT NOT NULL, number BIGINT NOT NULL REFERENCES chunk, count BIGINT NOT NULL,
    PRIMARY KEY (lexeme, number));
CREATE INDEX word_number ON word (number);
CREATE TEXT SEARCH DICTIONARY stem (TEMPLATE = snowball, LANGUAGE = english)
"""
STEMMED = "coalesce((ts_lexize('stem', given))[1], given) FROM unnest(CAST(? AS TEXT[])) AS given"
BM25 = f"""
WITH asked AS (SELECT DISTINCT {STEMMED}),
    chosen (lexeme) AS (SELECT * FROM asked),
    known AS (SELECT lexeme, count(*) AS holding FROM word JOIN chosen USING (lexeme) GROUP BY lexeme),
    whole AS (SELECT max(value) FILTER (WHERE key = 'passages')::float AS passages,
        max(value) FILTER (WHERE key = 'words')::float AS words FROM fact)
SELECT number, sum(greatest(ln(greatest((passages - holding + 0.5) / (holding + 0.5), 1e-9)), 1e-6)
    * count * {K1 + 1} / (count + {K1} * ({1 - B} + {B} * length * passages / words))) AS score
FROM word JOIN known USING (lexeme) JOIN chunk USING (number) CROSS JOIN whole {{among}}
GROUP BY number ORDER BY score DESC, number LIMIT ?
"""
DIGEST = """
SELECT md5(concat_ws(' ', (SELECT string_agg(md5(document::text), '' ORDER BY id) FROM document),
    (SELECT string_agg(md5(chunk::text), '' ORDER BY number) FROM chunk),
    (SELECT string_agg(md5(vector::text), '' ORDER BY number) FROM vector),
    (SELECT sum(hashtextextended(lexeme, number) % 1000003 * count) FROM word)))
"""


def names(text: str) -> list[str]:
    """The words of a text in small letters and without accents, ``a_b`` one of them; stemming is the server's."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(sign))
    stripped = (re.sub("_+", "_", word.strip("_")) for word in re.findall(r"\w+", plain))
    return [word[:LONGEST] for word in stripped if word]


class Session(Base):
    """A connection to the server."""

    BEGIN: ClassVar = {False: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", True: "BEGIN"}
    FILTERS: ClassVar = {
        "kind": "kind = ?",
        "path": "(file ~ ? OR substr(file, 1, length(?)) = ?)",
        "source": "(source ~ ? OR substr(source, 1, length(?)) = ?)",
        "title": "strpos(lower(title), lower(?)) > 0",
        "heading": "strpos(lower(heading), lower(?)) > 0",
        "text": "strpos(text, ?) > 0",
    }

    def __init__(self, connection: psycopg.Connection):
        self.connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor:
        """A cursor."""
        if not values:
            return self.connection.execute(cast(LiteralString, statement))
        return self.connection.execute(cast(LiteralString, statement.replace("%", "%%").replace("?", "%s")), values)

    def close(self) -> None:
        """Lets go of the server."""
        self.connection.close()

    def roll_back(self) -> None:
        """A connection that is gone has ended the transaction already."""
        if not self.connection.closed:
            self.execute("ROLLBACK")

    def empty(self) -> bool:
        """Never: schema and tables are made in one transaction."""
        return False

    def pattern(self, value: str) -> str:
        """As GLOB has it, written as a regular expression; between brackets stand characters, never ranges."""
        parts = re.split(r"(\*|\?|\[[^]]+\])", value)
        signs = {"*": ".*", "?": "."}
        made = [signs.get(part) or "|".join(map(_literal, part[1:-1] if part[:1] == "[" else [part])) for part in parts]
        return f"^{''.join(f'({part})' for part in made)}$"

    def add(self, document: int, row: Row) -> int:
        """Stores a passage and its words; its number."""
        said = names(f"{row.about} {row.text}")
        parts = [part for word in said for part in word.split("_")]
        fields = (document, row.heading, row.about, row.text, row.start, row.stop, len(parts))
        columns = "document, heading, about, text, start, stop, length"
        made = self.execute(f"INSERT INTO chunk ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING number", fields)
        (number,) = cast(tuple[int], made.fetchone())
        stemmed = f"SELECT lexeme, ?, count(*) FROM (SELECT {STEMMED}) AS one (lexeme) GROUP BY lexeme"
        self.execute(f"INSERT INTO word {stemmed}", (number, [*parts, *(word for word in said if "_" in word)]))
        return number

    def drop_words(self, chosen: str, values: Sequence[str]) -> None:
        """Forgets the words of the passages that a condition names."""
        self.execute(f"DELETE FROM word WHERE number IN (SELECT number FROM chunk WHERE {chosen})", values)

    def words(self, words: Sequence[str], among: str, values: Sequence[str], depth: int) -> dict[int, float]:
        """By the formula of FTS5's BM25."""
        only = f"WHERE number IN (SELECT number {FROM} WHERE {among})" if among else ""
        given = (names(" ".join(words)), *values, depth)
        return {number: float(score) for number, score in self.execute(BM25.format(among=only), given)}


class Server(Store):
    """A schema of a PostgreSQL server, by its URL."""

    folder = Path()

    def __init__(self, url: str):
        self.url, _, schema = url.partition("#")
        self.schema = schema or "didact_index"
        parts = urlsplit(self.url)
        shown = parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()  # no secret in a line
        self.name = f"{shown}#{self.schema}"

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Turns what the server says into a line about the index."""
        try:
            yield
        except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedObject) as error:
            raise self.broken(_line(error)) from error
        except psycopg.Error as error:
            remedy = "check the server and the URL, or try again"
            raise ResourceProblem(f"the index: {_line(error)}", where=self.name, remedy=remedy) from error

    @contextmanager
    def locked(self, building: bool = True) -> Iterator[None]:
        """A lock of the server, which goes when whoever has it is gone."""
        kind = "" if building else "_shared"
        with self.speaking(), self._connected() as connection:
            connection.execute("SELECT set_config('lock_timeout', %s, false)", (PATIENCE,))
            lock = cast(LiteralString, f"SELECT pg_advisory_lock{kind}(hashtext(%s))")
            try:
                connection.execute(lock, (f"{OURS} {self.schema}",))
            except errors.LockNotAvailable:
                what = f"another process is {'at work on' if building else 'building'} this index"
                raise ResourceProblem(what, where=self.name, remedy="wait until it is done") from None
            yield

    def _connected(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True)

    def connect(self, write: bool = False) -> Session:
        """In the schema alone."""
        with self.speaking():
            connection = self._connected()
            connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", (self.schema,))
        return Session(connection)

    def begun(self) -> bool:
        """Whether there is a schema of ours. Raises UsageProblem where it is another's."""
        asked = "SELECT coalesce(obj_description(oid), '') FROM pg_namespace WHERE nspname = %s"
        with self.speaking(), self._connected() as connection:
            found = connection.execute(asked, (self.schema,)).fetchone()
        if found and found[0] != OURS:
            raise UsageProblem("this schema is no index", where=self.name, remedy="name a new one after # in the URL")
        return found is not None

    def finished(self) -> bool:
        """Whether it knows its digest."""
        with self.speaking():
            base = self.connect()
            known = base.facts()
            base.close()
        return "digest" in known

    def verify(self) -> None:
        """By a digest of every passage, vector and word, computed by the server."""
        with self.speaking():
            base = self.connect()
            found, known = base.execute(DIGEST).fetchone(), base.facts().get("digest")
            base.close()
        if found != (known,):
            raise self.broken("it is not what was written")

    def check(self, base: Base) -> None:
        """What was stored is there, passage by passage."""
        with self.speaking():
            if source := base.changed():
                raise self.broken(f"the passages of {source} have changed")

    def lay(self, base: Base) -> None:
        """Makes the schema and its tables; inside a transaction."""
        name = '"' + self.schema.replace('"', '""') + '"'
        base.execute(f"CREATE SCHEMA {name}")
        base.execute(f"COMMENT ON SCHEMA {name} IS '{OURS}'")
        for statement in TABLES.split(";"):
            base.execute(statement)

    def remove(self) -> None:
        """Deletes the schema, where it is ours."""
        if self.begun():
            with self.speaking(), self._connected() as connection:
                name = '"' + self.schema.replace('"', '""') + '"'
                connection.execute(cast(LiteralString, f"DROP SCHEMA {name} CASCADE"))

    def unseal(self) -> None:
        """Forgets the digest."""
        base = self.connect()
        base.execute("DELETE FROM fact WHERE key = 'digest'")
        base.close()

    def seal(self, base: Base) -> None:
        """Says how many passages and words there are, which BM25 asks for, and what it all comes to."""
        with base.transaction(write=True):
            passages, length = base.execute("SELECT count(*), coalesce(sum(length), 0) FROM chunk").fetchone()
            digest = base.execute(DIGEST).fetchone()[0]
            base.set({"passages": str(passages), "words": str(max(1, length)), "digest": digest})
        base.execute("ANALYZE")
        base.close()


def _literal(text: str) -> str:
    return re.sub(r"([^\w])", r"\\\1", text)


def _line(error: psycopg.Error) -> str:
    """The first line of what it says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
