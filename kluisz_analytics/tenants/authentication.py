"""Bearer tokens: Knox's check of whose they are and how long they hold.

What a token may be used for is said by each view (:mod:`kluisz_analytics.tenants.permissions`).
"""

from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxTokenAuthentication

from kluisz_analytics.tenants.models import ApiToken


class TokenAuthentication(KnoxTokenAuthentication):
    """Knox's authentication, without its housekeeping."""

    def _cleanup_token(self, auth_token: ApiToken) -> bool:
        """Whether the token has expired.

        Knox would look through all tokens of the user at each request, to delete expired ones.
        """
        return auth_token.expiry is not None and auth_token.expiry < timezone.now()
