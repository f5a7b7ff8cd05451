"""The pure cores are pure: what they are imported with needs no Django and no Celery.

The import contract sees what a module imports; this sees what its packages load beside it.
"""

import subprocess
import sys
import tomllib

import pytest
from django.conf import settings

CONTRACT = "The pure cores know no database"
CORES = """
kluisz_analytics.identifiers kluisz_analytics.periods kluisz_analytics.scales
kluisz_analytics.tenants.attributed kluisz_analytics.tenants.membership
pricing.bounds pricing.conditions pricing.engine pricing.model_names pricing.price_book
pricing.prices pricing.quotes pricing.own_total pricing.readings pricing.scenario
pricing.shipped_book pricing.shipped_corrections pricing.units pricing.vocabulary
credits.burn credits.forecast credits.recurrence
usage.analytics.calendar usage.analytics.comparison usage.analytics.question
usage.analytics.segments usage.environments usage.facts.contributions usage.facts.decide
usage.facts.hidden usage.facts.likely usage.facts.pairing usage.facts.twins
usage.langfuse.recorder
usage.facts.decided usage.facts.owner usage.facts.patterns usage.facts.received usage.facts.rules
usage.facts.unmetered usage.langfuse.evidence usage.langfuse.sandbox.mapping usage.langfuse.wire
usage.measures usage.periods usage.rollups.sketches usage.scope
""".split()
LOADS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    for forbidden in {"django", "celery"} & sys.modules.keys():
        sys.exit(f"{name} loads {forbidden}")
"""


@pytest.mark.both_databases
def test_the_pure_cores_load_neither_django_nor_celery() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS, *CORES],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr


def test_the_import_contract_names_every_pure_core() -> None:
    with (settings.BASE_DIR / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["name"] == CONTRACT]
    assert sorted(contract["source_modules"]) == sorted(CORES)
    assert {"django", "celery"} <= set(contract["forbidden_modules"])
    assert not contract.get("allow_indirect_imports", False)
