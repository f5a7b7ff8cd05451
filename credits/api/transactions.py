"""The ledger over HTTP."""

from django.http import StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from credits.api import answers
from credits.api.lists import FORMAT, AccountListView, page_of
from credits.models import Transaction
from kluisz_analytics.tenants.permissions import ReadsLedger


class Transactions(AccountListView):
    permission_classes = [ReadsLedger]
    file_name = "transactions"
    newest_first = ["-id"]
    row = answers.TransactionAnswer

    @extend_schema(
        parameters=[answers.TransactionParameters, FORMAT],
        responses=page_of("TransactionsAnswer", answers.TransactionAnswer),
        operation_id="transactions",
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """Entries of the ledger, newest first: one's own, a tenant admin's tenant's, a platform
        admin's all.
        """
        asked = self.parameters(answers.TransactionParameters)
        entries = Transaction.objects.select_related("account__user", "created_by")
        found = self.within(self.visible(entries, asked.get("user_id", [])), asked)
        if types := asked.get("type"):
            found = found.filter(type__in=types)
        return self.answer(found)
