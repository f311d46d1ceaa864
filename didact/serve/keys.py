"""API keys: only their scrypt hashes are kept, a line each, and comparing takes the same time whatever differs."""

import hashlib
import hmac
import os
import secrets
import threading
from pathlib import Path

from didact.engine.durable import on_disk
from didact.errors import DataProblem, UsageProblem

COST = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 32}  # 16 MB and some 40 ms a guess
PREFIX = "didact"


class Keys:
    """The keys of a file: ``id salt hash name`` a line, hexadecimal; a key is ``didact-ID-SECRET``."""

    def __init__(self, path: Path):
        self.path = path
        found = [_line(path, number, text) for number, text in enumerate(_read(path), 1) if text.strip()]
        self.lines = {name: (salt, digest) for name, salt, digest, _ in found}
        self.owners = {name: owner for name, _, _, owner in found}
        self._known: dict[str, bytes] = {}  # a digest of keys that were right before, by id: scrypt is slow on purpose
        self._busy = threading.Lock()  # one guess at a time: guessing must not take the machine

    def allows(self, key: str) -> bool:
        """Whether a key is one of these."""
        prefix, _, rest = key.partition("-")
        name, _, secret = rest.partition("-")
        if prefix != PREFIX or name not in self.lines or not 16 <= len(secret) <= 256:
            return False
        digest = hashlib.sha256(secret.encode()).digest()
        if hmac.compare_digest(self._known.get(name, b""), digest):
            return True
        salt, wanted = self.lines[name]
        with self._busy:
            found = _hash(secret, salt)
        right = hmac.compare_digest(found, wanted)
        if right:
            self._known[name] = digest
        return right

    def owner(self, key: str) -> str:
        """Whose key it is, one that is allowed."""
        return self.owners[key.split("-")[1]]


def create(path: Path | None, owner: str) -> str:
    """A new key, of which the file keeps the hash only."""
    if path is None:
        raise UsageProblem("a key is kept in a file", where="--new-key", remedy="name it with --key-file")
    name, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_bytes(16)
    line = f"{name} {salt.hex()} {_hash(secret, salt).hex()} {' '.join(owner.split())}\n"
    with on_disk(path.parent, "keep this key"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)
    return f"{PREFIX}-{name}-{secret}"


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, maxmem=1 << 26, **COST)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        remedy = "make one with `didact serve RUN --key-file FILE --new-key NAME`"
        raise DataProblem("no readable file of keys", where=str(path), remedy=remedy) from error


def _line(path: Path, number: int, text: str) -> tuple[str, bytes, bytes, str]:
    """A key's id, salt, hash and owner."""
    try:
        name, salt, digest, *owner = text.split()
        return name, bytes.fromhex(salt), bytes.fromhex(digest), " ".join(owner)
    except ValueError as error:
        what = "not a key as --new-key writes it"
        raise DataProblem(what, where=f"{path}:{number}", remedy="remove the line, and make a new key") from error
