"""Budgets over HTTP, with what is used and held of them now: in the caller's scope, page by page or
as a download.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from credits.api import answers
from credits.api.lists import FORMAT, AccountListView, page_of
from credits.budgets import as_they_stand
from credits.models import TenantBudget
from kluisz_analytics.tenants.access import NotVisible, sees_user, visible_user
from kluisz_analytics.tenants.models import Tenant
from kluisz_analytics.tenants.permissions import ReadsLedger


class Budgets(AccountListView):
    permission_classes = [ReadsLedger]
    file_name = "budgets"
    newest_first = ["-id"]
    row = answers.BudgetRowAnswer

    @extend_schema(
        parameters=[answers.BudgetParameters, FORMAT],
        responses=page_of("BudgetsAnswer", answers.BudgetRowAnswer),
        operation_id="budgets",
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """Budgets, with what is used and held of each in its running day, week or month: those of
        oneself, all of a tenant admin's tenant, a platform admin's all.
        """
        asked = self.parameters(answers.BudgetParameters)
        found = self._budgets_seen().select_related("tenant", "user")
        if tenant_ids := asked.get("tenant_id"):
            found = found.filter(tenant__in=[self._visible_tenant(one) for one in tenant_ids])
        if user_ids := asked.get("user_id"):
            users = [visible_user(self.viewer, one).pk for one in user_ids]
            found = found.filter(user__in=users)
        if periods := asked.get("period"):
            found = found.filter(period__in=periods)
        if asked["is_hard"] is not None:
            found = found.filter(is_hard=asked["is_hard"])
        return self.answer(found)

    def shown(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """The budgets as they stand; of a user who is none of the caller's business, no name."""
        for one in as_they_stand(rows, timezone.now()):
            user = one.budget.user
            is_seen = user is not None and sees_user(self.viewer, user)
            yield {**one._asdict(), "user": user if is_seen else None}

    def _budgets_seen(self) -> QuerySet[TenantBudget]:
        viewer = self.viewer
        if viewer.is_superuser:
            return TenantBudget.objects.all()
        of_tenant = TenantBudget.objects.filter(tenant=viewer.tenant_id)
        return of_tenant if viewer.is_tenant_admin else of_tenant.filter(user=viewer.pk)

    def _visible_tenant(self, tenant_id: UUID) -> UUID:
        """Raises NotVisible for a tenant that is not there, or another one's."""
        seen = Tenant.objects.filter(pk=tenant_id)
        if not self.viewer.is_superuser:
            seen = seen.filter(pk=self.viewer.tenant_id)
        if not seen.exists():
            raise NotVisible(f"There is no tenant {tenant_id}.")
        return tenant_id
