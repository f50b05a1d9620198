"""An authority of a test's own, and what it issues, in the files that clients and servers read."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

_BEGAN = datetime.now(UTC) - timedelta(days=1)  # noqa: TID251 - a certificate holds now or never
_PEM = serialization.Encoding.PEM
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    name: str, key: Key, issuer: str, signer: Key, *, authority: bool
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGAN)
        .not_valid_after(_BEGAN + timedelta(days=3))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


class Authority:
    """Issues certificates for 127.0.0.1 and localhost."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._own = _certificate(name, self._key, name, self._key, authority=True)

    def trust_pem(self) -> str:
        file = self._folder / f"{self._name}.pem"
        file.write_bytes(self._own.public_bytes(_PEM))
        return str(file)

    def trust_store(self, password: str) -> str:
        file = self._folder / f"{self._name}-trust.p12"
        lock = serialization.BestAvailableEncryption(password.encode())
        content = pkcs12.serialize_java_truststore(
            [pkcs12.PKCS12Certificate(self._own, b"authority")], lock
        )
        file.write_bytes(content)
        return str(file)

    def key_store(self, holder: str, password: str) -> str:
        key, issued = self._issue(holder)
        file = self._folder / f"{holder}.p12"
        lock = serialization.BestAvailableEncryption(password.encode())
        file.write_bytes(
            pkcs12.serialize_key_and_certificates(holder.encode(), key, issued, [self._own], lock)
        )
        return str(file)

    def key_pem(self, holder: str, password: str | None = None) -> str:
        key, issued = self._issue(holder)
        lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            lock = serialization.BestAvailableEncryption(password.encode())
        file = self._folder / f"{holder}-key.pem"
        file.write_bytes(
            key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, lock)
            + issued.public_bytes(_PEM)
        )
        return str(file)

    def guard(self, *, asks: bool = True) -> ssl.SSLContext:
        """Make the context of a server of ours, which `asks` for a certificate of ours, or not."""
        guard = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.trust_pem())
        guard.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
        guard.load_cert_chain(self.key_pem("server"))
        return guard

    def _issue(self, holder: str) -> tuple[Key, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        return key, _certificate(holder, key, self._name, self._key, authority=False)
