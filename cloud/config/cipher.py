"""`{cipher}` values decrypted on this side, when the Config Server passes them through.

Interchangeable with Spring's `Encryptors.text` (AES) and `RsaSecretEncryptor`
(spring-cloud-context, `EncryptorFactory`).
"""

import base64
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import pkcs12

from cloud.errors import ConfigurationError

Decrypt = Callable[[str], str]

_IV = 16
_ROUNDS = 1024


def decryptor(get: Callable[[str], str | None]) -> Decrypt:
    """Build what the `encrypt.*` properties ask for.

    Args:
        get: gives a property; `encrypt.key`, or `encrypt.key-store.{location,password}`.

    Raises:
        ConfigurationError: no key is set, or the key cannot be read.
    """
    key, store = get("encrypt.key"), get("encrypt.key-store.location")
    if store:
        return _rsa(_from_store(store, get("encrypt.key-store.password") or ""), get)
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


def _from_pem(text: str) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError):
        raise ConfigurationError("encrypt.key is no readable RSA private key") from None
    return _checked(key, "encrypt.key")


def _from_store(location: str, password: str) -> rsa.RSAPrivateKey:
    try:
        blob = Path(location.removeprefix("file:")).read_bytes()
        key = pkcs12.load_key_and_certificates(blob, password.encode())[0]
    except (OSError, ValueError):
        raise ConfigurationError(
            "encrypt.key-store.location is no PKCS12 store that the password opens"
        ) from None
    return _checked(key, "encrypt.key-store.location")


def _checked(key: object, name: str) -> rsa.RSAPrivateKey:
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigurationError(f"{name} holds no RSA private key")
    return key


def _hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigurationError(f"{name} is not hexadecimal") from None
