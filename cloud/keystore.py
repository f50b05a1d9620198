"""PKCS #12 key stores (RFC 7292), as keytool and OpenSSL write them: keys by alias, certificates.

Heavy to import: take it from `cloud.aside`, or where ciphers need its library anyway.
"""

from collections.abc import Iterator

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12

_JKS = bytes.fromhex("feedfeed")
_CONSTRUCTED = 0x20
_LONG = 0x80
_DATA = bytes.fromhex("2a864886f70d010701")  # pkcs7-data
_SHROUDED_KEY = bytes.fromhex("2a864886f70d010c0a0102")  # pkcs8ShroudedKeyBag
_FRIENDLY_NAME = bytes.fromhex("2a864886f70d010914")

Node = tuple[int, bytes]


class BadStoreError(ValueError):
    """It cannot be used; the text says why, and holds no secret."""


def certificates(blob: bytes, password: str) -> list[str]:
    """Return every certificate of a store as PEM, the one of its first key first."""
    _, own, others = _load(blob, password)
    return [found.certificate.public_bytes(_PEM).decode() for found in (own, *others) if found]


def identity(blob: bytes, password: str) -> str:
    """Return the first key and its certificates as one PEM, unencrypted: keep it in memory.

    Raises:
        BadStoreError: no store, a wrong password, or no key with a certificate in it.
    """
    key, own, _ = _load(blob, password)
    if key is None or own is None:
        raise BadStoreError("holds no private key with its certificate")
    plain = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return plain.decode() + "".join(certificates(blob, password))


def keys(blob: bytes, password: str, key_password: str) -> dict[str, PrivateKeyTypes]:
    """Return the private keys by alias; keytool spells an alias in small letters.

    Args:
        blob: the store.
        password: of the store.
        key_password: of the keys, mostly the same.

    Raises:
        BadStoreError: no store, or a password that does not open it.
    """
    _load(blob, password)  # its checksum tells a wrong password
    found = {}
    for alias, sealed in _sealed_keys(blob):
        try:
            found[alias] = serialization.load_der_private_key(sealed, key_password.encode())
        except (ValueError, TypeError):
            raise BadStoreError("holds a key that its password does not open") from None
    return found


_PEM = serialization.Encoding.PEM


def _load(
    blob: bytes, password: str
) -> tuple[PrivateKeyTypes | None, pkcs12.PKCS12Certificate | None, list[pkcs12.PKCS12Certificate]]:
    if blob.startswith(_JKS):
        raise BadStoreError("is a JKS store; keytool -importkeystore makes it PKCS12")
    try:
        store = pkcs12.load_pkcs12(blob, password.encode())
    except ValueError:
        raise BadStoreError("is no PKCS12 store that the password opens") from None
    return store.key, store.cert, store.additional_certs


def _sealed_keys(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield alias and EncryptedPrivateKeyInfo of each key (RFC 7292, section 4.2).

    The library gives the first key alone. Keys stand in parts that are not encrypted as a whole;
    the shape below is walked by hand, for the store was parsed in full before.
    """
    pfx = _nodes(_nodes(blob)[0][1])
    safe = _content(_nodes(pfx[1][1]))
    for _, part in _nodes(_nodes(safe)[0][1]):
        kind, *_ = content = _nodes(part)
        if kind[1] != _DATA:
            continue
        for _, bag in _nodes(_nodes(_content(content))[0][1]):
            name, value, *attributes = _nodes(bag)
            if name[1] == _SHROUDED_KEY:
                yield _alias(attributes), value[1]


def _content(info: list[Node]) -> bytes:
    """Unwrap the octets of a ContentInfo of kind data: `[0] EXPLICIT OCTET STRING`."""
    return _octets(_nodes(info[1][1])[0])


def _octets(node: Node) -> bytes:
    kind, body = node
    return b"".join(map(_octets, _nodes(body))) if kind & _CONSTRUCTED else body


def _alias(attributes: list[Node]) -> str:
    for attribute in _nodes(attributes[0][1]) if attributes else ():
        name, values = _nodes(attribute[1])
        if name[1] == _FRIENDLY_NAME:
            return _nodes(values[1])[0][1].decode("utf-16-be")
    return ""


def _nodes(body: bytes) -> list[Node]:
    """Split DER to tags and contents, one level deep (X.690)."""
    found, at = [], 0
    while at < len(body):
        kind, size, at = body[at], body[at + 1], at + 2
        if size & _LONG:
            width = size & ~_LONG
            size, at = int.from_bytes(body[at : at + width]), at + width
        found.append((kind, body[at : at + size]))
        at += size
    return found
