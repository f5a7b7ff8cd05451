"""Encryption of secrets at rest (Fernet), with rotation: the first key encrypts, any key
decrypts.
"""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


def encrypt(secret: str) -> str:
    return _fernet().encrypt(secret.encode()).decode()


def decrypt(token: str) -> str:
    """The secret in clear; ImproperlyConfigured when none of the configured keys made ``token``."""
    try:
        return _fernet().decrypt(token.encode()).decode()
    except InvalidToken as error:
        raise ImproperlyConfigured(
            "A stored secret can't be decrypted: add the key that encrypted it to"
            " KLUISZ_ENCRYPTION_KEYS, or enter the secret again."
        ) from error


def _fernet() -> MultiFernet:
    keys = settings.ENCRYPTION_KEYS or [settings.SECRET_KEY]
    return MultiFernet(
        [Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())) for key in keys]
    )
