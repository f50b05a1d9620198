"""`{cipher}` values decrypted on this side, when the Config Server passes them through.

Interchangeable with Spring's `Encryptors.text` (AES) and `RsaSecretEncryptor`
(spring-cloud-context, `EncryptorFactory`).
"""

import base64
import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

from cloud import keystore
from cloud.errors import ConfigurationError

Decrypt = Callable[[str], str]

_STORE = "encrypt.key-store.location"
_KEY = re.compile(r"\{key:([^}]*)\}")
_PEM = re.compile(r"-----[A-Z ]+-----")
_IV = 16
_ROUNDS = 1024


def decryptor(get: Callable[[str], str | None]) -> Decrypt:
    """Build what the `encrypt.*` properties ask for.

    Args:
        get: gives a property; `encrypt.key`, or `encrypt.key-store.{location,password}` with
            `alias`, and `secret` when a key has a password of its own.

    Raises:
        ConfigurationError: no key is set, or the key cannot be read.
    """
    key = get("encrypt.key")
    if get(_STORE):
        return _by_alias(get)
    if key and "PRIVATE KEY" in key:
        return _rsa(_from_pem(key), get)
    if key:
        salt = _hex("encrypt.salt", get("encrypt.salt") or "deadbeef")
        return lambda text: _aes(bytes.fromhex(text), key, salt, strong=False).decode()
    raise ConfigurationError("encrypt.key is not set")


def encrypt(text: str, key: str, iv: bytes, salt: str = "deadbeef") -> str:
    """Encrypt as `POST /encrypt` of a Config Server with a symmetric key does.

    Args:
        text: what to hide.
        key: `encrypt.key` of the server.
        iv: 16 random bytes, never used twice with one key.
        salt: `encrypt.salt`, hexadecimal.
    """
    padder = PKCS7(128).padder()
    plain = padder.update(text.encode()) + padder.finalize()
    aes = Cipher(algorithms.AES(_secret(key, bytes.fromhex(salt))), modes.CBC(iv)).encryptor()
    return (iv + aes.update(plain) + aes.finalize()).hex()


@lru_cache(maxsize=64)
def _secret(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha1", password.encode(), salt, _ROUNDS, 32)


def _aes(blob: bytes, password: str, salt: bytes, *, strong: bool) -> bytes:
    iv, body = blob[:_IV], blob[_IV:]
    key = _secret(password, salt)
    if strong:
        return AESGCM(key).decrypt(iv, body, None)
    aes = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    return unpadder.update(aes.update(body) + aes.finalize()) + unpadder.finalize()


def _rsa(key: rsa.RSAPrivateKey, get: Callable[[str], str | None]) -> Decrypt:
    oaep = (get("encrypt.rsa.algorithm") or "").upper() == "OAEP"
    strong = (get("encrypt.rsa.strong") or "").lower() == "true"
    salt = _hex("encrypt.rsa.salt", get("encrypt.rsa.salt") or "deadbeef")
    sha1 = hashes.SHA1()  # noqa: S303 - Java's OAEPPadding is SHA-1; only the reader's side is ours
    pad = padding.OAEP(padding.MGF1(sha1), sha1, None) if oaep else padding.PKCS1v15()

    def decrypt(text: str) -> str:
        blob = base64.b64decode(text, validate=True)
        size = int.from_bytes(blob[:2])
        secret = key.decrypt(blob[2 : 2 + size], pad)
        return _aes(blob[2 + size :], secret.hex(), salt, strong=strong).decode()

    return decrypt


def _by_alias(get: Callable[[str], str | None]) -> Decrypt:
    """Open each text with the key that `{key:alias}` before it names, else with the usual one."""
    location, password = get(_STORE) or "", get("encrypt.key-store.password") or ""
    try:
        blob = Path(location.removeprefix("file://").removeprefix("file:")).read_bytes()
        found = keystore.keys(blob, password, get("encrypt.key-store.secret") or password)
    except OSError as error:
        raise ConfigurationError(f"{_STORE} cannot be read: {error.strerror}") from None
    except keystore.BadStoreError as error:
        raise ConfigurationError(f"{_STORE} {error}") from None
    only = next(iter(found)) if len(found) == 1 else ""
    usual = get("encrypt.key-store.alias") or only

    def decrypt(text: str) -> str:
        named = _KEY.match(text)
        alias = (named[1] if named else usual).lower()
        if alias not in found:
            raise ConfigurationError(f"{_STORE} holds no key of alias {alias!r}")
        key = _checked(found[alias], _STORE)
        return _rsa(key, get)(text[named.end() :] if named else text)

    return decrypt


def _from_pem(text: str) -> rsa.RSAPrivateKey:
    # Lines may be spelled `\\n`, or be gone: an environment variable has one line only.
    body = "".join(_PEM.sub("", text.replace("\\n", "\n")).split())
    try:
        key = serialization.load_der_private_key(base64.b64decode(body, validate=True), None)
    except (ValueError, TypeError):
        raise ConfigurationError("encrypt.key is no readable RSA private key") from None
    return _checked(key, "encrypt.key")


def _checked(key: object, name: str) -> rsa.RSAPrivateKey:
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigurationError(f"{name} holds no RSA private key")
    return key


def _hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigurationError(f"{name} is not hexadecimal") from None
