"""The shipped book beside other sources: what differs is shown with both figures, and taken over
where somebody says so (docs/pricing.md, Checking the book).
"""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from benchmarks.bench_prices import AT, results
from pricing import reference_table
from pricing.comparison import differences, named_alike
from pricing.models import ModelPrice
from pricing.shipped_book import ShippedPrices, installed
from tests.conftest import recorded
from usage.langfuse.model_prices import offers_of
from usage.models import LangfuseConnection

TABLE = {
    "sample_spec": {"input_cost_per_token": 0.1},
    "gpt-4o": {
        "input_cost_per_token": 0.000003,
        "output_cost_per_token": 0.00001,
        "input_cost_per_token_batches": 0.00000125,
        "input_cost_per_token_above_200k_tokens_priority": 0.000009,
        "cache_creation_input_token_cost": 0.0,
        "search_context_cost_per_query": {"search_context_size_medium": 0.01},
        "litellm_provider": "openai",
    },
    "1024-x-1024/dall-e-3": {"input_cost_per_token": 0.1},
    "mistral/mistral-ocr-4-0": {"ocr_cost_per_page": 0.004},
}


def test_whatever_is_not_as_in_the_reference_is_flagged() -> None:
    _, offers = reference_table.kept()
    wrong = {one.case.model for one in results() if one.verdict == "otherwise"}
    found = differences(ShippedPrices(installed), named_alike(offers, wrong), AT)
    assert wrong == {one.model for one in found}


def test_the_table_is_read_by_kinds_and_conditions(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE))
    found = {
        (one.model, one.conditions): {kind.value: f"{usd:f}" for kind, usd in one.prices.items()}
        for one in reference_table.read(path)
    }
    assert found == {
        ("gpt-4o", ""): {
            "input": "3.000000000000",
            "output": "10.000000000000",
            "web_search": "10000.00",
        },
        ("gpt-4o", "processing=batch"): {"input": "1.250000000000"},
        ("gpt-4o", "service_tier=priority input>200000"): {"input": "9.000000000000"},
        ("mistral/mistral-ocr-4-0", ""): {"pages": "4000.000000000000"},
    }


def test_langfuses_own_prices_are_read_by_their_patterns() -> None:
    models = recorded("models")["body"]["data"]
    own = {**models[0], "isLangfuseManaged": False, "prices": {"input": {"price": 1e-06}}}
    by_name = {one.model: dict(one.prices) for one in offers_of(models, ["babbage-002", "other"])}
    assert {name: set(prices) for name, prices in by_name.items()} == {
        "babbage-002": {"input", "output"}
    }
    (mine,) = offers_of([*models, own], ["babbage-002"])
    assert list(mine.prices.values()) == [1]
    assert list(offers_of(models, ["chat-bison"])) == [], "characters are no tokens"


@pytest.mark.django_db
class TestCommand:
    @pytest.fixture
    def table(self, tmp_path: Path) -> str:
        path = tmp_path / "table.json"
        path.write_text(json.dumps(TABLE))
        return str(path)

    def run(self, *args: str) -> str:
        """What it prints: with --json nothing but that, else also which servers don't answer."""
        out, err = StringIO(), StringIO()
        call_command("check_prices", *args, stdout=out, stderr=err)
        return out.getvalue() if "--json" in args else out.getvalue() + err.getvalue()

    def test_it_shows_both_figures_of_each_source(
        self, table: str, connection: LangfuseConnection
    ) -> None:
        shown = self.run("--model", "gpt-4o", "--table", table)
        assert f"{table}: 2 prices differ by more than 1%" in shown
        assert "gpt-4o: input $2.5 here, $3 there" in shown
        # The sandbox knows what it costs.
        assert f"{connection.name}: 0 prices differ" in shown
        body: Any = json.loads(self.run("--model", "gpt-4o", "--table", table, "--json"))
        assert body["differences"][0] == {
            "source": table,
            "model": "gpt-4o",
            "conditions": "",
            "kind": "input",
            "ours_usd_per_million": "2.5",
            "theirs_usd_per_million": "3",
        }

    def test_a_server_that_does_not_answer_is_named(self, connection: LangfuseConnection) -> None:
        LangfuseConnection.objects.filter(pk=connection.pk).update(host="http://127.0.0.1:9")
        assert f"{connection.name} could not be asked" in self.run("--model", "gpt-4o")

    def test_what_it_takes_over_is_a_price_of_the_platform(
        self, table: str, connection: LangfuseConnection
    ) -> None:
        self.run("--model", "gpt-4o", "--table", table, "--take", table)
        entered = {one.conditions: one for one in ModelPrice.objects.all()}
        assert entered.keys() == {"", "processing=batch", "service_tier=priority input>200000"}
        assert (entered[""].input, entered[""].precedence) == (3, "fallback")

    @pytest.mark.parametrize(
        ("args", "problem"),
        [
            (["--take", "LiteLLM"], "Say with --model"),
            (["--take", "nobody", "--model", "gpt-4o"], "There is no source “nobody”"),
        ],
    )
    def test_it_takes_nothing_unsaid(
        self, args: list[str], problem: str, connection: LangfuseConnection
    ) -> None:
        with pytest.raises(CommandError, match=problem):
            self.run(*args)
