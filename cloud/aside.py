"""Work with keys in a process of its own, which ends: its library's megabytes end with it.

An instance reads a key store, or seals its configuration, once; the library that does it would
stay in every process of the instance (docs/adr/0024-memory.md). So another Python does it, given
the question on its standard input, where no list of processes shows it.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
from typing import Any, Final

from cloud.errors import UnavailableError

_LIMIT_S: Final = 30
_PROGRAM: Final = "import sys; sys.path[:] = {!r}; from cloud import aside; aside.main()"
_SALT, _NONCE = 16, 12


class RefusedError(Exception):
    """It cannot be done; the text says why, and holds no secret."""


def certificates(blob: bytes, password: str) -> str:
    """Return every certificate of a PKCS #12 store as PEM."""
    return str(_run("certificates", blob=_text(blob), password=password))


def identity(blob: bytes, password: str) -> str:
    """Return key and certificates of a PKCS #12 store as PEM, unencrypted."""
    return str(_run("identity", blob=_text(blob), password=password))


def seal(blob: bytes, key: str, purpose: str) -> bytes:
    """Encrypt and sign: AES-256-GCM by a key that scrypt derives from `key`, a salt each time.

    Args:
        blob: what to hide.
        key: a passphrase.
        purpose: what it is for; it opens for the same purpose only.
    """
    return base64.b64decode(_run("seal", blob=_text(blob), key=key, purpose=purpose))


def unseal(blob: bytes, key: str, purpose: str) -> bytes:
    """Undo `seal`.

    Raises:
        RefusedError: another key or purpose, or somebody changed it.
    """
    return base64.b64decode(_run("unseal", blob=_text(blob), key=key, purpose=purpose))


def _run(work: str, **given: str) -> Any:
    command = [sys.executable, "-c", _PROGRAM.format(sys.path)]
    asked = json.dumps({"work": work, "given": given})
    try:
        done = subprocess.run(  # noqa: S603 - this very program
            command, input=asked, capture_output=True, text=True, timeout=_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        # Not its words: they could quote what was asked.
        raise UnavailableError(f"no helper process: {type(error).__name__}") from None
    answer = json.loads(done.stdout)
    if answer["refused"]:
        raise RefusedError(answer["refused"])
    return answer["found"]


def main() -> None:
    """Answer the question on standard input, in the process that is there for it."""
    asked = json.load(sys.stdin)
    given = {**asked["given"], "blob": base64.b64decode(asked["given"]["blob"])}
    try:
        answer = {"found": _WORKS[asked["work"]](**given), "refused": None}
    except ValueError as error:
        answer = {"found": None, "refused": str(error)}
    json.dump(answer, sys.stdout)


def _certificates(blob: bytes, password: str) -> str:
    from cloud import keystore  # noqa: PLC0415 - what the other process is for

    return "".join(keystore.certificates(blob, password))


def _identity(blob: bytes, password: str) -> str:
    from cloud import keystore  # noqa: PLC0415 - what the other process is for

    return keystore.identity(blob, password)


def _seal(blob: bytes, key: str, purpose: str) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - as above

    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    sealed = AESGCM(_derived(key, salt)).encrypt(nonce, blob, purpose.encode())
    return _text(salt + nonce + sealed)


def _unseal(blob: bytes, key: str, purpose: str) -> str:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    salt, nonce, sealed = blob[:_SALT], blob[_SALT : _SALT + _NONCE], blob[_SALT + _NONCE :]
    try:
        return _text(AESGCM(_derived(key, salt)).decrypt(nonce, sealed, purpose.encode()))
    except (InvalidTag, ValueError):
        raise ValueError("was made with another key or for another purpose, or changed") from None


def _derived(key: str, salt: bytes) -> bytes:
    # OWASP's "Password Storage", scrypt: 2^15, 8, 3 passes at about 32 MiB.
    return hashlib.scrypt(key.encode(), salt=salt, n=1 << 15, r=8, p=3, maxmem=64 << 20, dklen=32)


def _text(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


_WORKS: Final[dict[str, Any]] = {
    "certificates": _certificates,
    "identity": _identity,
    "seal": _seal,
    "unseal": _unseal,
}
