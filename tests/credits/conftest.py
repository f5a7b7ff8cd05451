"""Usage for tests of credits, made as the tests of usage make it."""

from tests.usage.conftest import api, bare_connection, use

__all__ = ["api", "bare_connection", "use"]
