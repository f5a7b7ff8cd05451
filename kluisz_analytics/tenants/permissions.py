"""What a caller may do over HTTP: every view names one of these classes (docs/api.md, Permissions).

Two things decide, and both have to agree: the caller's role, and, where it came with a token, the
token's scope. A session is of every scope. A view that names none is closed to all.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from kluisz_analytics.tenants.models import ApiToken, User

if TYPE_CHECKING:  # the settings of rest_framework.views name this module
    from rest_framework.views import APIView

READ, CREDITS, MANAGE = ApiToken.Scope.READ, ApiToken.Scope.CREDITS, ApiToken.Scope.MANAGE


class Undeclared(BasePermission):
    """What a view has that names no permission: nobody gets through."""

    message = "This address says of nobody that it may use it."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return False


class ApiPermission(BasePermission):
    """A role and the scopes of tokens, to be named together: neither is enough by itself."""

    scopes: ClassVar[tuple[ApiToken.Scope, ...]]
    refusal: ClassVar[str] = ""

    message = ""

    def allows(self, user: User) -> bool:
        """Whether the user's role is one that may."""
        return True

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if not isinstance(request.user, User):
            return False
        if not self.allows(request.user):
            self.message = self.refusal
            return False
        if request.auth is None:
            return True
        scope = getattr(request.auth, "scope", None)
        if scope in self.scopes and (scope != READ or request.method in SAFE_METHODS):
            return True
        names = " or ".join(f"“{one.value}”" for one in self.scopes)
        self.message = f"This token's scope is “{scope}”; this takes one of the scope {names}."
        return False


class ReadsUsage(ApiPermission):
    """Analytics: everyone, each in its own scope, but for service accounts."""

    scopes = (READ, MANAGE)
    refusal = "A service account may check, reserve and settle credits, and read nothing else."

    def allows(self, user: User) -> bool:
        return user.is_superuser or not user.is_service_account


class ReadsPlatform(ReadsUsage):
    """What is of the whole platform: its admins."""

    refusal = "Only a platform admin sees the whole platform."

    def allows(self, user: User) -> bool:
        return user.is_superuser


class ReadsLedger(ReadsUsage):
    """The books: everyone its own, a tenant's admin its tenant's; service accounts none."""


class ReadsCredits(ApiPermission):
    """A user's credits, and a hold: those who may see the user, and the gate of any user."""

    scopes = (READ, CREDITS, MANAGE)


class UsesGate(ApiPermission):
    """The gate before a run, for any user: service accounts, and platform admins."""

    scopes: ClassVar[tuple[ApiToken.Scope, ...]] = (CREDITS,)
    refusal = "Only a service account reserves and settles credits."

    def allows(self, user: User) -> bool:
        return user.is_superuser or user.is_service_account


class ReadsEstimates(UsesGate):
    """What a flow's runs cost: for the gate, and changing nothing."""

    scopes = (READ, CREDITS, MANAGE)


class GivesCredits(ApiPermission):
    """Grants and refunds. It is money: platform admins only."""

    scopes = (MANAGE,)
    refusal = "Only a platform admin gives credits."

    def allows(self, user: User) -> bool:
        return user.is_superuser


class SettlesDisputes(ApiPermission):
    """Whose a disputed run is. It is money: platform admins only."""

    scopes = (MANAGE,)
    refusal = "Only a platform admin settles disputes."

    def allows(self, user: User) -> bool:
        return user.is_superuser


class ByMethod(BasePermission):
    """Where an address reads and writes, a permission for each; what is not named is refused."""

    methods: ClassVar[Mapping[str, type[ApiPermission]]] = {}

    message = Undeclared.message

    def has_permission(self, request: Request, view: "APIView") -> bool:
        named = "GET" if request.method in SAFE_METHODS else request.method
        permission_class = self.methods.get(named or "")
        if permission_class is None:
            return False
        permission = permission_class()
        is_allowed = permission.has_permission(request, view)
        self.message = permission.message
        return is_allowed


class ReadsOrReserves(ByMethod):
    """Holds: listing them is reading the books, making one is the gate's."""

    methods = {"GET": ReadsLedger, "POST": UsesGate}
