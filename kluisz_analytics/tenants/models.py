"""Tenant, User, Project, Flow and API tokens (domain.md, Who)."""

import uuid
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from django.contrib.auth.models import AbstractUser, UserManager
from django.core.exceptions import ValidationError
from django.db import models
from knox.models import AbstractAuthToken

from kluisz_analytics.zones import unknown_zone


def validate_timezone(name: str) -> None:
    if problem := unknown_zone(name):
        raise ValidationError(problem, code="unknown_timezone")


class Tenant(models.Model):
    """A customer organisation. One of them is the default one; it always exists."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=200)
    slug = models.SlugField(max_length=100, unique=True)
    is_active = models.BooleanField(default=True)
    is_default = models.BooleanField(default=False)
    timezone = models.CharField(max_length=64, default="UTC", validators=[validate_timezone])
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "tenant"
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"],
                condition=models.Q(is_default=True),
                name="one_default_tenant",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        if self.is_default:
            raise models.ProtectedError(
                "The default tenant always exists; make another tenant the default one first.",
                {self},
            )
        return super().delete(*args, **kwargs)


class TenantUserManager(UserManager["User"]):
    """Puts a user for whom no tenant is named into the default tenant, a super-user included."""

    def _create_user_object(
        self, username: str, email: str | None, password: str | None, **extra_fields: Any
    ) -> "User":
        if not extra_fields.keys() & {"tenant", "tenant_id"}:
            extra_fields["tenant"] = Tenant.objects.get(is_default=True)
        return super()._create_user_object(username, email, password, **extra_fields)  # type: ignore[misc, no-any-return]


# Knox names the reverse of its abstract model itself
class User(AbstractUser):  # type: ignore[django-manager-missing]
    """A user of one tenant.

    Roles: platform admin (``is_superuser``), tenant admin, service account, user.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="users")
    is_tenant_admin = models.BooleanField(default=False, help_text="Sees and manages its tenant.")
    is_service_account = models.BooleanField(
        default=False,
        help_text=(
            "The flow engine: may check, reserve and settle credits for any user, and read nothing"
            " else."
        ),
    )

    objects: ClassVar[TenantUserManager] = TenantUserManager()

    class Meta:
        db_table = "user"
        ordering = ["username"]

    def __str__(self) -> str:
        return self.username


class Project(models.Model):
    """A Kluisz folder, known to traces as ``kluisz_project_id``."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=200)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="projects")

    class Meta:
        db_table = "project"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Flow(models.Model):
    """A flow of a project, known to traces as ``kluisz_flow_id``."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=200)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="flows")

    class Meta:
        db_table = "flow"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ApiToken(AbstractAuthToken):
    """A bearer token: stored hashed, expiring, revocable, for one scope."""

    class Scope(models.TextChoices):
        READ = "read", "Read what the user may see"
        CREDITS = "credits", "Check, reserve and settle credits of runs"
        MANAGE = "manage", "Give and refund credits, and read what the user may see"

    name = models.CharField(max_length=100, blank=True)
    scope = models.CharField(max_length=20, choices=Scope.choices, default=Scope.READ)

    class Meta:
        db_table = "api_token"
        verbose_name = "API token"

    def __str__(self) -> str:
        return self.name or self.token_key
