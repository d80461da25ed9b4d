"""The key pair that signs and verifies tokens: made once, read at each start, never replaced."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from cl_server.http.tokens import public_jwk

from .errors import KeyFileError

__all__ = ["KeyPair", "load_keys", "load_or_make_keys"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyPair:
    """The keys that are in use.

    Attributes:
        private: Signs.
        public_pem: What verifies, as PEM.
        jwk: What verifies, as a JSON Web Key, with its `kid`.
    """

    private: ec.EllipticCurvePrivateKey
    public_pem: str
    jwk: dict[str, str]

    @property
    def kid(self) -> str:
        """The key's id, which every token names."""
        return self.jwk["kid"]


def load_or_make_keys(private_path: str | Path, public_path: str | Path) -> KeyPair:
    """Return the pair in these files; makes both, for their owner only, where neither is there.

    A public key that is missing beside its private one is written anew. Services that start at the
    same time end up with the same pair.

    Args:
        private_path: A P-256 key as PEM, not encrypted.
        public_path: Its public key as PEM.

    Raises:
        KeyFileError: A file cannot be read or written, holds something else, is missing beside
            the other, or the two do not belong together. Nothing was replaced.
    """
    private_file, public_file = Path(private_path), Path(public_path)
    if not _is_there(private_file):
        if _is_there(public_file):
            raise KeyFileError(
                f"{public_file} is there, and {private_file} is not: restore it from a backup. To "
                "begin with a new pair, which ends all sign-ins, remove the first one too."
            )
        _write_new(private_file, _private_pem(ec.generate_private_key(ec.SECP256R1())))
        logger.info("made the keys that sign and verify tokens: %s, %s", private_file, public_file)
    if not _is_there(public_file):
        _write_new(public_file, _public_pem(_load_private(private_file).public_key()))
    return load_keys(private_file, public_file)


def load_keys(private_path: str | Path, public_path: str | Path) -> KeyPair:
    """Return the pair in these files.

    Raises:
        KeyFileError: As `load_or_make_keys`; also where they are not there.
    """
    private_file, public_file = Path(private_path), Path(public_path)
    private, public = _load_private(private_file), _load_public(public_file)
    if private.public_key() != public:
        raise KeyFileError(
            f"{private_file} and {public_file} do not belong together: restore the right one "
            "from a backup"
        )
    if stat.S_IMODE(private_file.stat().st_mode) & 0o077:
        logger.warning("others can read the key that signs tokens: chmod 600 %s", private_file)
    return KeyPair(private, _public_pem(public).decode(), public_jwk(public))


def _load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} is no private key in PEM, without a password: {error}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p256(key):
        raise KeyFileError(f"{path} holds no P-256 key, which ES256 signs with")
    return key


def _load_public(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no public key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p256(key):
        raise KeyFileError(f"{path} holds no P-256 key, which ES256 verifies with")
    return key


def _is_p256(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> bool:
    return isinstance(key.curve, ec.SECP256R1)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KeyFileError(f"{path} cannot be looked at: {error.strerror}") from error
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error


def _write_new(path: Path, content: bytes) -> None:
    """Write a file of ours, whole or not at all; one that is there already, or just now, stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:  # mkstemp made it with mode 0600
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            # A link, unlike a rename, never takes the place of another process's new key.
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            Path(partial).unlink()
        _sync_directory(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
