"""Tenant, User, what users were and are called, Project, Flow and API tokens (domain.md, Who)."""

import uuid
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from django.contrib.auth.models import AbstractUser, UserManager
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Lower
from django.db.models.signals import post_delete
from django.dispatch import receiver
from knox.models import AbstractAuthToken

from kluisz_analytics.zones import unknown_zone


def validate_timezone(name: str) -> None:
    if problem := unknown_zone(name):
        raise ValidationError(problem, code="unknown_timezone")


FINDS_USERS_BY = ("finds_users_by_email", "finds_users_by_username")


class Standing(models.TextChoices):
    """How an entry of the directory came about, and what has become of one seen in usage."""

    ENTERED = "", "Entered"
    SEEN = "seen", "Seen in usage"
    KNOWN = "known", "Known by now"
    MERGED = "merged", "Merged"


class SeenInUsage(models.Model):
    """What an attribution rule may enter of whom runs name and nobody knows (domain.md, Seen in
    usage). Its columns are the sync's and the desk's.

    ``seen_as`` is the name that it was entered for, and stays so. One that the directory has by
    that name otherwise (*known*), or that an operator *merged*, has ``merged_into``: whose its
    usage is then.
    """

    seen = models.CharField(
        "seen in usage",
        max_length=6,
        blank=True,
        default=Standing.ENTERED,
        db_default=Standing.ENTERED.value,
        choices=Standing,
        editable=False,
    )
    seen_as = models.CharField(
        max_length=200, blank=True, default="", db_default="", editable=False
    )
    seen_by = models.BigIntegerField(
        null=True,
        editable=False,
        help_text="The number of the attribution rules in whose daily bound it was entered.",
    )
    merged_into = models.ForeignKey(
        "self", null=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )

    class Meta:
        abstract = True


class Tenant(SeenInUsage):
    """A customer organisation. One of them is the default one; it always exists."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=200)
    slug = models.SlugField(max_length=100, unique=True)
    is_active = models.BooleanField(default=True)
    is_default = models.BooleanField(default=False)
    timezone = models.CharField(max_length=64, default="UTC", validators=[validate_timezone])
    created_at = models.DateTimeField(auto_now_add=True)
    finds_users_by_email = models.BooleanField(
        default=False, help_text="Runs may name its users by their e-mail addresses."
    )
    finds_users_by_username = models.BooleanField(
        default=False, help_text="Runs may name its users by their user names."
    )

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

    def save(self, *args: Any, **kwargs: Any) -> None:
        """One that finds its users otherwise than before has what it found decided anew."""
        from kluisz_analytics.tenants.directory import names_change  # noqa: PLC0415

        if self._state.adding or not self._finds_otherwise():
            super().save(*args, **kwargs)
            return
        with names_change():
            super().save(*args, **kwargs)

    def _finds_otherwise(self) -> bool:
        stored = Tenant.objects.filter(pk=self.pk).values_list(*FINDS_USERS_BY).first()
        return stored != tuple(getattr(self, name) for name in FINDS_USERS_BY)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        if self.is_default:
            raise models.ProtectedError(
                "The default tenant always exists; make another tenant the default one first.",
                {self},
            )
        return super().delete(*args, **kwargs)


class TenantAlias(models.Model):
    """What runs may call a tenant beside its id. Upper and lower case are the same."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="own_aliases")
    name = models.CharField(max_length=200, help_text="As runs name it: tenant_id, or by a rule.")

    class Meta:
        db_table = "tenant_alias"
        ordering = ["tenant", "name"]
        verbose_name_plural = "tenant aliases"
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                name="one_tenant_an_alias",
                violation_error_message="This name is another tenant's.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        self.name = self.name.strip()
        # One seen in usage is called so by attribution rules only, until it is entered.
        others = Tenant.objects.filter(seen=Standing.ENTERED).exclude(pk=self.tenant_id)
        is_so_called = models.Q(slug__iexact=self.name) | models.Q(name__iexact=self.name)
        if self.tenant_id and (other := others.filter(is_so_called).first()):
            raise ValidationError(
                {
                    "name": f"“{self.name}” is what {other} is called, so it would name two: choose"
                    " another name."
                }
            )


class TenantUserManager(UserManager["User"]):
    """Puts a user for whom no tenant is named into the default tenant, a super-user included."""

    def _create_user_object(
        self, username: str, email: str | None, password: str | None, **extra_fields: Any
    ) -> "User":
        if not extra_fields.keys() & {"tenant", "tenant_id"}:
            extra_fields["tenant"] = Tenant.objects.get(is_default=True)
        return super()._create_user_object(username, email, password, **extra_fields)  # type: ignore[misc, no-any-return]


# Knox names the reverse of its abstract model itself
class User(SeenInUsage, AbstractUser):  # type: ignore[django-manager-missing]
    """A user of one tenant.

    Roles: platform admin (``is_superuser``), tenant admin, service account, user.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="users")
    seen_in = models.ForeignKey(
        Tenant,
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        editable=False,
        help_text="The tenant in which an attribution rule entered it for its name.",
    )
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

    def is_or_was_of(self, tenant_id: uuid.UUID) -> bool:
        return self.tenant_id == tenant_id or self.memberships.filter(tenant_id=tenant_id).exists()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """One who moves to another tenant leaves its past where it was (Membership), and is found
        by what it was called before (UserAlias). Who is called as others are has what these were
        found by decided anew.
        """
        from kluisz_analytics.tenants.directory import (  # noqa: PLC0415
            Known,
            names_change,
            record_changes,
        )

        written = kwargs.get("update_fields")
        if written is not None and not {*Known._fields} & {*written}:
            super().save(*args, **kwargs)
            return
        stored = User.objects.filter(pk=self.pk).values_list(*Known._fields).first()
        before = None if stored is None else Known(*stored)
        names = {self.username, self.email}
        with names_change(names if before is None else {*names, before.username, before.email}):
            super().save(*args, **kwargs)
            if before is not None:
                record_changes({self.pk: before})


class Membership(models.Model):
    """That a user was, or is, of a tenant: of those who ever moved, all their times.

    A user without any has always been of its tenant. Written by
    ``kluisz_analytics.tenants.directory``.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="memberships")
    since = models.DateTimeField(null=True, help_text="Empty: from ever.")
    until = models.DateTimeField(null=True, help_text="Empty: still.")

    class Meta:
        db_table = "membership"
        ordering = ["user", "until"]
        constraints = [
            models.UniqueConstraint(fields=["user", "since"], name="one_membership_a_beginning"),
            models.UniqueConstraint(
                fields=["user"],
                condition=models.Q(until__isnull=True),
                name="one_membership_at_a_time",
            ),
            models.CheckConstraint(
                condition=models.Q(since__isnull=True)
                | models.Q(until__isnull=True)
                | models.Q(until__gt=models.F("since")),
                name="membership_ends_after_it_begins",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} of {self.tenant}"


class UserAlias(models.Model):
    """What runs may call a user of a tenant beside its id. Upper and lower case are the same."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="aliases")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=200, help_text="As runs name it: userId.")
    was_its_name = models.BooleanField(
        default=False,
        editable=False,
        help_text="It was its user name or its e-mail address, and runs named it so.",
    )

    class Meta:
        db_table = "user_alias"
        ordering = ["tenant", "name"]
        verbose_name_plural = "user aliases"
        constraints = [
            models.UniqueConstraint(
                "tenant",
                Lower("name"),
                name="one_alias_a_tenant",
                violation_error_message="This name is another user's in the tenant.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Whom the name meant before has what it was found by decided anew."""
        from kluisz_analytics.tenants.directory import names_change  # noqa: PLC0415

        with names_change([self.name]):
            super().save(*args, **kwargs)

    def clean(self) -> None:
        self.name = self.name.strip()
        if self.user_id and self.tenant_id and not self.user.is_or_was_of(self.tenant_id):
            raise ValidationError(
                {"user": f"{self.user} is not of {self.tenant}, and was not: choose its tenant."}
            )
        of_tenant = User.objects.filter(tenant=self.tenant_id, seen=Standing.ENTERED)
        others = of_tenant.exclude(pk=self.user_id)
        is_so_called = models.Q(username__iexact=self.name) | models.Q(email__iexact=self.name)
        if self.tenant_id and (other := others.filter(is_so_called).first()):
            raise ValidationError(
                {
                    "name": f"“{self.name}” is what {other} of {self.tenant} is called by its user"
                    " name or e-mail address, so it would name two: choose another name."
                }
            )


@receiver(post_delete, sender=UserAlias)
def _is_called_so_no_more(instance: UserAlias, **kwargs: Any) -> None:
    from kluisz_analytics.tenants.directory import record_lost_names  # noqa: PLC0415

    record_lost_names([instance.user_id])


@receiver(post_delete, sender=TenantAlias)
def _tenant_is_called_so_no_more(instance: TenantAlias, **kwargs: Any) -> None:
    from kluisz_analytics.tenants.directory import record_lost_tenant_name  # noqa: PLC0415

    record_lost_tenant_name(instance.tenant_id)


class DirectoryChange(models.Model):
    """That usage of a user, or of a tenant, has to be decided anew, of all time or since a moment.

    The newest is the state of the directory that usage is decided by
    (``kluisz_analytics.tenants.directory``).
    """

    id = models.BigAutoField(primary_key=True)
    # Kept whatever becomes of whom it is about, so that states are never taken for each other.
    user = models.ForeignKey(
        User,
        null=True,
        on_delete=models.DO_NOTHING,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        on_delete=models.DO_NOTHING,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    since = models.DateTimeField(null=True)
    made_at = models.DateTimeField(auto_now_add=True)
    is_done = models.BooleanField(default=False)

    class Meta:
        db_table = "directory_change"
        ordering = ["pk"]
        indexes = [
            models.Index(
                fields=["id"], condition=models.Q(is_done=False), name="directory_change_to_do"
            )
        ]

    def __str__(self) -> str:
        return f"{self.user_id or self.tenant_id} since {self.since or 'ever'}"


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
