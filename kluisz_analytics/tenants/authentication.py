"""Bearer tokens: Knox's check, and the scope of the token."""

from typing import Any

from django.utils import timezone
from knox.auth import TokenAuthentication as KnoxTokenAuthentication
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from kluisz_analytics.tenants.models import ApiToken


class TokenAuthentication(KnoxTokenAuthentication):
    """Knox's authentication; a token of scope ``credits`` opens the credits API only."""

    def authenticate(self, request: Request) -> Any:
        authenticated = super().authenticate(request)
        if authenticated is None:
            return None
        user, token = authenticated
        if token.scope == ApiToken.Scope.CREDITS and not request.path.startswith(
            "/api/v2/credits/"
        ):
            raise PermissionDenied(
                "This token's scope is “credits”; make one with the scope “read” for this address."
            )
        return user, token

    def _cleanup_token(self, auth_token: ApiToken) -> bool:
        """Whether the token has expired.

        Knox would look through all tokens of the user at each request, to delete expired ones.
        """
        return auth_token.expiry is not None and auth_token.expiry < timezone.now()
