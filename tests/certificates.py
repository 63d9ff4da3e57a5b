"""Certificates with a key each, as files hold them: of nobody's, or of an authority's that a test made."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Pair = tuple[bytes, bytes]


def pair(
    *names: str,
    ends: float = 90,
    begins: float = -10,
    password: bytes | None = None,
    by: Pair | None = None,
    authority: bool = False,
) -> Pair:
    """Certificate and key in PEM; `begins` and `ends` in days from now, `by` the authority's own."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    nobody = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Nobody")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]) if authority else nobody
    issuer = x509.load_pem_x509_certificate(by[0]).subject if by else subject
    signer = serialization.load_pem_private_key(by[1], None) if by else key
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    certificate = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return certificate.public_bytes(pem), key.private_bytes(pem, form, secret)
