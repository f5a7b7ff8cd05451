"""The application's addresses, and one that asks nothing: the floor that each answer is measured
against. It goes through the same server, middleware, authentication and renderer.
"""

from django.urls import include, path
from rest_framework.request import Request
from rest_framework.response import Response

from kluisz_analytics.tenants.permissions import ReadsUsage
from kluisz_analytics.tenants.views import ApiView


class Floor(ApiView):
    """Knows its caller, and answers with nothing."""

    permission_classes = [ReadsUsage]

    def get(self, request: Request) -> Response:
        return Response({})


urlpatterns = [
    path("api/v2/analytics/floor", Floor.as_view()),
    path("", include("kluisz_analytics.urls")),
]
