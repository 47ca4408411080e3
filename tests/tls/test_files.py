"""
Certificates, keys and authorities in files: each problem is one line that says what to do.
"""

from __future__ import annotations

import base64
import ipaddress
import shutil
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.listener import TlsSection
from gateway.model.errors import ConfigError
from gateway.tls.certificates import (
    certificate_name,
    days_left,
    read_authorities,
    read_identity,
    validity_warning,
)
from gateway.tls.contexts import Contexts
from gateway.tls.files import read_files, stamp_of
from gateway.tls.identity import identity_of
from tests.issuer import Issued, Issuer, key_pem

NOW = 1_800_000_000.0


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


def problems(section: TlsSection) -> list[str]:
    """What is wrong with it; asserts that something is."""
    with pytest.raises(ConfigError) as caught:
        read_files(section, "listeners.a.tls")
    return list(caught.value.problems)


def problem(section: TlsSection) -> str:
    (line,) = problems(section)
    assert "\n" not in line
    return line


def section(certificate: Path, **more: Path) -> TlsSection:
    paths = {"certificate": certificate, **more}
    return msgspec.convert({name: str(path) for name, path in paths.items()}, TlsSection)


def test_certificate_and_key_in_one_file_or_two(issuer: Issuer) -> None:
    """Both ways give the same, and what stands beside them in the file does not matter."""
    ours = issuer.issue("gw.example")
    one = read_identity(ours.file)
    two = read_identity(ours.certificate_file, ours.key_file)
    assert one.certificate == two.certificate == ours.certificate
    ours.file.write_bytes(
        b"for the gateway\r\n"
        + key_pem(ours.key).replace(b"\n", b"\r\n")
        + b"its certificate\r\n"
        + ours.certificate_file.read_bytes()
    )
    assert read_identity(ours.file).certificate == ours.certificate


def test_a_chain_is_read_in_its_order(issuer: Issuer) -> None:
    """Everything behind the first certificate is its chain; one with a wrong start is told so."""
    ours = issuer.issue("gw.example")
    text = ours.file.read_bytes()
    ours.file.write_bytes(text + issuer.pem)
    authority = x509.load_pem_x509_certificate(issuer.pem)
    assert read_identity(ours.file).chain == (authority,)
    ours.file.write_bytes(issuer.pem + text)
    assert problem(section(ours.file)) == (
        f"listeners.a.tls.certificate: {ours.file}: begins with the certificate of"
        f" {certificate_name(authority)}, which is not that of the key; put the gateway's own"
        " first, then its chain"
    )


@pytest.mark.parametrize("apart", [True, False])
def test_an_encrypted_key(issuer: Issuer, tmp_path: Path, apart: bool) -> None:
    """A passphrase opens it from the first line of its file; without, or with another, one line."""
    ours = issuer.issue("gw.example")
    locked = key_pem(ours.key, b"open sesame")
    ours.key_file.write_bytes(locked)
    ours.file.write_bytes(ours.certificate_file.read_bytes() + locked)
    words = tmp_path / "words"
    words.write_bytes(b"open sesame\r\nthe rest is not read\n")
    file, setting = (ours.key_file, "key") if apart else (ours.file, "certificate")
    bare = section(ours.certificate_file, key=ours.key_file) if apart else section(ours.file)
    assert problem(bare) == (
        f"listeners.a.tls.{setting}: {file}: the key is encrypted; name a file with its"
        " passphrase in passphrase_file"
    )
    opened = TlsSection(certificate=bare.certificate, key=bare.key, passphrase_file=str(words))
    assert read_files(opened, "").default.certificate == ours.certificate
    words.write_bytes(b"open simsim\n")
    assert problem(opened) == (
        f"listeners.a.tls.passphrase_file: {words}: is not the passphrase of the key in {file}"
    )
    words.write_bytes(b"\n")
    assert problem(opened).endswith(f"{words}: its first line should be the passphrase")
    words.unlink()
    assert problem(opened).endswith(f"{words}: cannot be read: No such file or directory")


def test_a_passphrase_for_a_key_that_has_none(issuer: Issuer, tmp_path: Path) -> None:
    """It is not used, and is no problem: keys of the names' directory may be of either kind."""
    ours = issuer.issue("gw.example")
    words = tmp_path / "words"
    words.write_text("secret\n")
    assert read_files(section(ours.file, passphrase_file=words), "").default.chain == ()


def test_files_that_are_not_what_they_should_be(issuer: Issuer, tmp_path: Path) -> None:
    """Missing, a directory, empty, without key, without certificate, garbage within the marks."""
    ours, other = issuer.issue("gw.example"), issuer.issue("other.example")
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_bytes(b"")
    where = "listeners.a.tls"
    assert problem(section(missing)) == (
        f"{where}.certificate: {missing}: cannot be read: No such file or directory"
    )
    assert problem(section(tmp_path)).endswith(f"{tmp_path}: cannot be read: Is a directory")
    assert problem(section(empty)) == (
        f"{where}.certificate: {empty}: no certificate in PEM form in it"
    )
    assert problem(section(ours.certificate_file)) == (
        f"{where}.certificate: {ours.certificate_file}: no private key in PEM form in it; put it"
        " there, or name its file in key"
    )
    assert problem(section(ours.certificate_file, key=empty)) == (
        f"{where}.key: {empty}: no private key in PEM form in it"
    )
    assert problem(section(ours.certificate_file, key=other.key_file)) == (
        f"{where}.key: {other.key_file}: this key does not belong to the certificate of"
        f" gw.example in {ours.certificate_file}"
    )
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert f"{broken}: certificate 1 in it cannot be read: " in problem(section(broken))
    broken.write_bytes(
        ours.certificate_file.read_bytes()
        + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    assert f"{broken}: the key cannot be read: " in problem(section(broken))
    exchange = x25519.X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    broken.write_bytes(ours.certificate_file.read_bytes() + exchange)
    assert problem(section(broken)).endswith(
        f"{broken}: a key of this kind cannot sign; use RSA or EC"
    )


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("a003020102", "a003020107", "certificate 1 in it cannot be read: 7 is not a valid X509"),
        ("06072a8648ce3d0201", "06072a8648ce3d0209", "is for a key of an unknown kind; use RSA"),
        ("06082a8648ce3d030107", "06082a8648ce3d030179", "is for a key of an unknown kind; use"),
    ],
)
def test_certificates_of_another_world(issuer: Issuer, good: str, bad: str, said: str) -> None:
    """A version, a kind of key or a curve that nobody knows is one line, not a traceback."""
    ours = issuer.issue("gw.example")
    text = ours.certificate.public_bytes(serialization.Encoding.DER)
    assert bytes.fromhex(good) in text
    text = text.replace(bytes.fromhex(good), bytes.fromhex(bad), 1)
    ours.file.write_bytes(
        b"-----BEGIN CERTIFICATE-----\n"
        + base64.encodebytes(text)
        + b"-----END CERTIFICATE-----\n"
        + key_pem(ours.key)
    )
    line = problem(section(ours.file))
    assert line.startswith(f"listeners.a.tls.certificate: {ours.file}: ") and said in line


def test_authorities_of_clients(issuer: Issuer, tmp_path: Path) -> None:
    """Several in a file are all trusted; none, or a client's own certificate, is a problem."""
    other = Issuer(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(issuer.pem + other.pem)
    assert len(read_authorities(both)) == 2
    ours = issuer.issue("gw.example")
    assert problem(section(ours.file, client_ca=tmp_path / "none.pem")) == (
        f"listeners.a.tls.client_ca: {tmp_path}/none.pem: cannot be read: No such file or directory"
    )
    assert problem(section(ours.file, client_ca=ours.key_file)).endswith(
        f"client_ca: {ours.key_file}: no certificate in PEM form in it"
    )
    assert "gw.example is not an authority (CA:FALSE)" in problem(
        section(ours.file, client_ca=ours.certificate_file)
    )


def test_every_problem_is_told_at_once(issuer: Issuer, tmp_path: Path) -> None:
    """Own certificate, authorities and names' directory are all looked at."""
    names = tmp_path / "names"
    names.mkdir()
    (names / "a.pem").write_bytes(issuer.issue("a.example").certificate_file.read_bytes())
    found = problems(section(tmp_path / "no.pem", client_ca=tmp_path / "no-ca.pem", sni=names))
    assert [line.split(": ")[0] for line in found] == [
        "listeners.a.tls.certificate",
        "listeners.a.tls.client_ca",
        "listeners.a.tls.sni",
    ]


def test_names_directory(issuer: Issuer, tmp_path: Path) -> None:
    """A name is found exactly, then by a wildcard for one label, else the default is shown."""
    names = tmp_path / "names"
    names.mkdir()
    default = issuer.issue("gw.example")
    exact, wild = issuer.issue("a.example", "A2.example"), issuer.issue("*.wild.example")
    shutil.copy(exact.file, names / "1.pem")
    shutil.copy(wild.file, names / "2.pem")
    (names / "notes.txt").write_text("nothing of ours")
    files = read_files(section(default.file, sni=names), "")

    def shown(name: bytes | None) -> Issued:
        found = files.named(name).certificate
        return next(one for one in (default, exact, wild) if one.certificate == found)

    assert shown(b"a.example") is exact
    assert shown(b"a2.EXAMPLE.") is exact
    assert shown(b"x.wild.example") is wild
    for name in (b"x.y.wild.example", b"wild.example", b"b.example", b"", b"\xff", b"*", None):
        assert shown(name) is default


def test_a_names_directory_that_makes_no_sense(issuer: Issuer, tmp_path: Path) -> None:
    """Nothing in it, a name twice, a certificate for no host."""
    names = tmp_path / "names"
    names.mkdir()
    ours = section(issuer.issue("gw.example").file, sni=names)
    assert problem(ours).endswith(f"sni: {names}: no *.pem in this directory")
    assert "no *.pem" in problem(section(Path(ours.certificate), sni=tmp_path / "nowhere"))
    shutil.copy(issuer.issue("a.example").file, names / "1.pem")
    shutil.copy(issuer.issue("b.example", "a.example").file, names / "2.pem")
    assert problem(ours) == (
        f"listeners.a.tls.sni: {names}/2.pem: a.example is in {names}/1.pem too; leave one of them"
    )
    shutil.copy(issuer.issue(common_names=["c.example"]).file, names / "2.pem")
    assert problem(ours).endswith(f"{names}/2.pem: its certificate names no host")


def test_dates(issuer: Issuer) -> None:
    """Days are counted down whole; three weeks before the end there is a warning, and after it."""
    late, early, soon, good = (
        issuer.issue("gw.example", begins=begins, ends=ends).certificate
        for begins, ends in ((-9, -1.5), (3, 30), (-1, 20.5), (-1, 21.5))
    )
    now = good.not_valid_after_utc.timestamp() - 21.5 * 86400
    assert [days_left(one, now) for one in (late, soon, good)] == [-2, 20, 21]
    assert validity_warning(good, now) is None
    assert (validity_warning(late, now) or "").startswith("gw.example expired on 20")
    assert (validity_warning(early, now) or "").startswith("gw.example is not valid before 20")
    assert (validity_warning(soon, now) or "").startswith("gw.example expires in 20 days, 20")


def test_dates_do_not_stop_the_gateway(issuer: Issuer) -> None:
    """An expired certificate is shown all the same, with a warning: peers decide."""
    ours = issuer.issue("gw.example", begins=-9, ends=-2)
    end = ours.certificate.not_valid_after_utc.timestamp()
    contexts = Contexts(section(ours.file), "a", lambda: end + 1)
    (warning,) = contexts.warnings()
    assert warning.startswith(f"{ours.file}: gw.example expired on ")
    assert contexts.notes() == [f"{ours.file}: gw.example, -1 days left"]


def test_an_authority_that_ends_is_warned_of(issuer: Issuer) -> None:
    """When the authority of the clients expires, none of them gets in any more."""
    ours = issuer.issue("gw.example")
    end = x509.load_pem_x509_certificate(issuer.pem).not_valid_after_utc.timestamp()
    contexts = Contexts(section(ours.file, client_ca=issuer.file), "a", lambda: end - 86400)
    assert any(line.startswith(f"{issuer.file}: ") for line in contexts.warnings())


def test_a_key_that_openssl_finds_too_weak(tmp_path: Path, issuer: Issuer) -> None:
    """What only OpenSSL can judge is a problem of the configuration too, not a traceback."""
    key = rsa.generate_private_key(65537, 1024)
    certificate = issuer.sign(key.public_key(), "gw.example")
    file = tmp_path / "weak.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ConfigError) as caught:
        Contexts(section(file), "a", lambda: NOW)
    assert caught.value.problems == (
        f"listeners.a.tls.certificate: {file}: OpenSSL refuses it: ee key too small",
    )


def test_the_stamp_changes_with_the_files(issuer: Issuer, tmp_path: Path) -> None:
    """Written again, replaced, gone, or one more in the names' directory."""
    names = tmp_path / "names"
    names.mkdir()
    ours, other = issuer.issue("gw.example"), issuer.issue("gw.example")
    watched = section(ours.certificate_file, key=ours.key_file, sni=names)
    stamps = [stamp_of(watched)]
    assert stamp_of(watched) == stamps[0]
    shutil.copy(other.file, names / "1.pem")
    stamps.append(stamp_of(watched))
    other.key_file.rename(ours.key_file)
    stamps.append(stamp_of(watched))
    ours.certificate_file.unlink()
    stamps.append(stamp_of(watched))
    assert len(set(stamps)) == 4


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


SRV = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x16\x10_xmpp.im.Example")
EMAIL = x509.RFC822Name("ann@example.com")
ADDRESS = x509.IPAddress(ipaddress.ip_address("2001:db8::1"))


@pytest.mark.parametrize(
    ("hosts", "names", "common", "identity"),
    [
        (["Device-7.example"], [], ["other"], "device-7.example"),
        (["b.example", "a.example"], [], [], "b.example"),
        (["a.example"], [uri("SPIFFE://Td.example/Ann/7")], [], "spiffe://td.example/Ann/7"),
        ([], [uri("urn:dev:mac:0024befffe804ff1")], [], "urn:dev:mac:0024befffe804ff1"),
        ([], [uri("https://h.example:8443/x"), uri("urn:b")], [], "https://h.example:8443/x"),
        ([], [SRV, ADDRESS], [], "2001:db8::1"),
        ([], [SRV], [], "_xmpp.im.example"),
        ([], [EMAIL], ["ann"], "ann"),
        ([], [], ["Ann-7"], "Ann-7"),
        ([], [], ["\u00e4nn"], "\u00e4nn"),
        ([], [], ["x" * 64], "x" * 64),
        # Nobody, more than one, or nothing that a log or a row should hold.
        ([], [EMAIL], [], None),
        ([], [], [], None),
        ([], [], ["ann", "bob"], None),
        ([], [], ["ann lee"], None),
        ([], [], ["ann\n"], None),
        ([], [], ["ann\u202e"], None),
        (["*.example"], [], ["ann"], None),
        ([], [uri("spiffe://td/*")], [], None),
        ([], [uri("no colon")], ["ann"], None),
        ([], [uri("urn:x y")], ["ann"], None),
        ([], [uri("urn:" + "x" * 252)], ["ann"], None),
        ([], [uri("urn:" + "x" * 251)], ["ann"], "urn:" + "x" * 251),
        (["", "a.example"], [], ["ann"], None),
        (["10.0.0.1"], [], ["ann"], None),
    ],
)
def test_identity(
    issuer: Issuer,
    hosts: list[str],
    names: list[x509.GeneralName],
    common: list[str],
    identity: str | None,
) -> None:
    """URI, host, address, service, common name: the first of the first kind there is, or nobody."""
    issued = issuer.issue(*hosts, names=names, common_names=common)
    assert identity_of(issued.certificate) == identity


def test_identity_of_a_certificate_that_contradicts_itself(issuer: Issuer) -> None:
    """A service name that is no DER, or empty, is nobody's, and no error."""
    oid = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")
    for value in (b"\x16\x00", b"\x04\x01x", b"\x16\x02_x", b"\x16\x01x"):
        issued = issuer.issue(names=[x509.OtherName(oid, value)], common_names=["ann"])
        assert identity_of(issued.certificate) is None


@given(st.text(max_size=64).filter(bool))
def test_an_identity_is_one_word(text: str) -> None:
    """Whatever an authority puts into a common name: one printable word without a *, or nobody."""
    try:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    except ValueError:
        return
    identity = identity_of(FakeCertificate(subject))  # type: ignore[arg-type]
    if identity is not None:
        assert identity == text and identity.isprintable() and len(identity.split()) == 1
        assert "*" not in identity and len(identity.encode()) <= 255


class FakeCertificate:
    """
    A certificate with a subject alone: signing one for each example would take too long.
    """

    def __init__(self, subject: x509.Name) -> None:
        self.subject = subject
        self.extensions = x509.Extensions([])
