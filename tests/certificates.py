"""Certificates of nobody's, with a key each, as files hold them."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def pair(name: str, ends: float = 90, begins: float = -10, password: bytes | None = None) -> tuple[bytes, bytes]:
    """Certificate and key in PEM; `begins` and `ends` in days from now."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    nobody = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Nobody")])
    certificate = (
        x509.CertificateBuilder(nobody, nobody, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return certificate.public_bytes(pem), key.private_bytes(pem, form, secret)
