"""Admin pages of the directory."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from kluisz_analytics.admin_pages import ModelAdmin, ReadOnlyAdmin, state_column
from kluisz_analytics.tenants.models import (
    ApiToken,
    DirectoryChange,
    Flow,
    Membership,
    Project,
    Tenant,
    TenantAlias,
    User,
    UserAlias,
)

admin.site.unregister(Group)


class SeenInUsageAdmin:
    """Those seen in usage are looked at here, and entered or merged on their own page."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may_change: bool = super().has_change_permission(request, obj)  # type: ignore[misc]
        return may_change and not (obj and obj.seen)


@admin.register(Tenant)
class TenantAdmin(SeenInUsageAdmin, ModelAdmin):
    list_display = [
        "name",
        "slug",
        "timezone",
        "is_active",
        state_column("is_default", "default", "default", "–"),
        "seen",
    ]
    list_filter = ["is_active", "seen"]
    search_fields = ["name", "slug", "id"]
    prepopulated_fields = {"slug": ["name"]}

    def has_delete_permission(self, request: HttpRequest, obj: Tenant | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj and obj.is_default)


@admin.register(User)
class UserAdmin(SeenInUsageAdmin, DjangoUserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "email", "tenant", "role", "is_active", "seen"]
    list_filter = [
        *("is_active", "seen", "is_tenant_admin", "is_superuser", "is_service_account"),
        "tenant",
    ]
    list_select_related = ["tenant"]
    search_fields = ["username", "email", "id"]
    autocomplete_fields = ["tenant"]
    filter_horizontal = []
    fieldsets = [
        (None, {"fields": ["username", "password", "tenant"]}),
        ("Person", {"fields": ["first_name", "last_name", "email"]}),
        (
            "Role",
            {
                "fields": [
                    "is_active",
                    "is_tenant_admin",
                    "is_service_account",
                    "is_staff",
                    "is_superuser",
                ]
            },
        ),
        ("Dates", {"fields": ["last_login", "date_joined"]}),
    ]
    add_fieldsets = [
        (
            None,
            {
                "classes": ["wide"],
                "fields": ["username", "tenant", "usable_password", "password1", "password2"],
            },
        )
    ]

    @admin.display(ordering="is_superuser")
    def role(self, user: User) -> str:
        if user.is_superuser:
            return "platform admin"
        if user.is_tenant_admin:
            return "tenant admin"
        return "service account" if user.is_service_account else "user"


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    """Written when a user moves to another tenant."""

    shows = "Where users were before: written when a user moves to another tenant."

    list_display = ["user", "tenant", "since", "until"]
    list_filter = ["tenant"]
    list_select_related = ["user", "tenant"]
    search_fields = ["user__username"]


@admin.register(UserAlias)
class UserAliasAdmin(ModelAdmin):
    """Added and taken away; another name is another alias."""

    shows = "Other names by which runs may call a user, apart from its id; unique in a tenant."

    list_display = [
        "name",
        "user",
        "tenant",
        state_column("was_its_name", "kept", "was its name", "entered"),
    ]
    exclude = ["was_its_name"]
    list_filter = ["tenant"]
    list_select_related = ["user", "tenant"]
    search_fields = ["name", "user__username"]
    autocomplete_fields = ["user", "tenant"]

    def has_change_permission(self, request: HttpRequest, obj: UserAlias | None = None) -> bool:
        return False


@admin.register(TenantAlias)
class TenantAliasAdmin(ModelAdmin):
    """Added and taken away; another name is another alias."""

    shows = "Other names by which runs may call a tenant, apart from its id."

    list_display = ["name", "tenant"]
    list_filter = ["tenant"]
    list_select_related = ["tenant"]
    search_fields = ["name", "tenant__name"]
    autocomplete_fields = ["tenant"]

    def has_change_permission(self, request: HttpRequest, obj: TenantAlias | None = None) -> bool:
        return False


@admin.register(DirectoryChange)
class DirectoryChangeAdmin(ReadOnlyAdmin):
    list_display = [
        "made_at",
        "of_user",
        "since",
        state_column("is_done", "usage", "decided anew", "waits for the next sync"),
    ]
    exclude = ["is_done"]
    list_filter = ["is_done"]

    @admin.display(description="user ID", ordering="user_id")
    def of_user(self, change: DirectoryChange) -> UUID | None:
        """Whether or not there still is such a user."""
        return change.user_id


@admin.register(Project)
class ProjectAdmin(ModelAdmin):
    list_display = ["name", "tenant", "id"]
    list_filter = ["tenant"]
    list_select_related = ["tenant"]
    search_fields = ["name", "id"]
    autocomplete_fields = ["tenant"]


@admin.register(Flow)
class FlowAdmin(ModelAdmin):
    list_display = ["name", "project", "tenant", "id"]
    list_filter = ["project__tenant"]
    list_select_related = ["project__tenant"]
    search_fields = ["name", "id"]
    autocomplete_fields = ["project"]

    @admin.display(ordering="project__tenant__name")
    def tenant(self, flow: Flow) -> str:
        return flow.project.tenant.name


@admin.register(ApiToken)
class ApiTokenAdmin(ModelAdmin):
    """Tokens are made by ``manage.py create_token``, which shows them once; here they are listed
    and revoked.
    """

    list_display = ["token_key", "name", "user", "scope", "created", "expiry"]
    list_filter = ["scope"]
    list_select_related = ["user"]
    search_fields = ["name", "user__username", "token_key"]
    readonly_fields = ["token_key", "user", "created", "scope"]
    exclude = ["digest"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
