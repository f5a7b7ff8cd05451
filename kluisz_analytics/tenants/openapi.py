"""What the OpenAPI schema says of every endpoint: bearer tokens, and the errors that any of them
can answer with.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_standardized_errors.openapi import AutoSchema as StandardizedAutoSchema
from drf_standardized_errors.openapi_serializers import ValidationErrorResponseSerializer


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "kluisz_analytics.tenants.authentication.TokenAuthentication"
    name = "bearerToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class AutoSchema(StandardizedAutoSchema):
    """Any of our endpoints can refuse a parameter (400), a caller (403), or what it names (404)."""

    def _should_add_validation_error_response(self) -> bool:
        return True

    def _should_add_http403_error_response(self) -> bool:
        return True

    def _should_add_http404_error_response(self) -> bool:
        return True

    def _get_http400_serializer(self) -> type[ValidationErrorResponseSerializer]:
        return ValidationErrorResponseSerializer
