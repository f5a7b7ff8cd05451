"""What every endpoint of the API does alike."""

from zoneinfo import ZoneInfo

from rest_framework.exceptions import NotFound
from rest_framework.response import Response
from rest_framework.views import APIView

from kluisz_analytics.tenants.access import NotVisible
from kluisz_analytics.tenants.models import User


class ApiView(APIView):
    """The caller, and what is not visible as not found."""

    @property
    def viewer(self) -> User:
        return self.request.user  # type: ignore[return-value]

    @property
    def zone(self) -> ZoneInfo:
        """In which the caller means its days unless it says otherwise: its tenant's, of a platform
        admin UTC.
        """
        return ZoneInfo("UTC") if self.viewer.is_superuser else self.viewer.tenant.zone

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(NotFound(str(exc)) if isinstance(exc, NotVisible) else exc)
