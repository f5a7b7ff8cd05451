"""The lists are their own history, and no two prices of one list hold at once: the database itself
refuses both (domain.md, Price).
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

OVERLAP = "Two prices of one list can not hold at the same time."
HISTORY = "What was recorded is not changed: withdraw it and record it anew."
LISTS = ("pricing_model_price", "pricing_tier_rate", "pricing_tier_assignment")
# A user who is deleted is forgotten here too.
MAY_CHANGE = ("withdrawn_at", "withdrawn_by_id", "recorded_by_id")

POSTGRESQL = [
    "CREATE EXTENSION IF NOT EXISTS btree_gist",
    """
    ALTER TABLE pricing_model_price ADD CONSTRAINT model_prices_do_not_overlap EXCLUDE USING gist (
        COALESCE(tenant_id, '00000000-0000-0000-0000-000000000000') WITH =, model WITH =,
            "match" WITH =, precedence WITH =, conditions WITH =,
        tstzrange(valid_from, valid_until) WITH &&
    ) WHERE (withdrawn_at IS NULL)
    """,
    f"""
    CREATE OR REPLACE FUNCTION refuse_list_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF to_jsonb(OLD) - '{{{",".join(MAY_CHANGE)}}}'::text[]
            <> to_jsonb(NEW) - '{{{",".join(MAY_CHANGE)}}}'::text[]
            OR (OLD.withdrawn_at IS NOT NULL AND NEW.withdrawn_at IS DISTINCT
                FROM OLD.withdrawn_at) THEN
            RAISE EXCEPTION '{HISTORY}' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    *(
        f"CREATE TRIGGER {table}_is_history BEFORE UPDATE ON {table} FOR EACH ROW"
        " EXECUTE FUNCTION refuse_list_change()"
        for table in LISTS
    ),
]
SQLITE_OVERLAP = f"""
    CREATE TRIGGER model_prices_do_not_overlap BEFORE INSERT ON pricing_model_price
    WHEN NEW.withdrawn_at IS NULL AND EXISTS (
        SELECT 1 FROM pricing_model_price other
        WHERE other.withdrawn_at IS NULL AND other.tenant_id IS NEW.tenant_id
            AND other.model = NEW.model
            AND other."match" = NEW."match" AND other.precedence = NEW.precedence
            AND other.conditions = NEW.conditions
            AND (other.valid_until IS NULL OR NEW.valid_from < other.valid_until)
            AND (NEW.valid_until IS NULL OR other.valid_from < NEW.valid_until)
    )
    BEGIN SELECT RAISE(ABORT, '{OVERLAP}'); END
"""


def _sqlite_history(table: str, columns: list[str]) -> str:
    changed = " OR ".join(
        f'OLD."{column}" IS NOT NEW."{column}"' for column in columns if column not in MAY_CHANGE
    )
    return f"""
        CREATE TRIGGER {table}_is_history BEFORE UPDATE ON {table}
        WHEN {changed} OR (OLD.withdrawn_at IS NOT NULL
            AND OLD.withdrawn_at IS NOT NEW.withdrawn_at)
        BEGIN SELECT RAISE(ABORT, '{HISTORY}'); END
    """


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        for statement in POSTGRESQL:
            schema_editor.execute(statement)
        return
    schema_editor.execute(SQLITE_OVERLAP)
    for model in ("ModelPrice", "TierRate", "TierAssignment"):
        meta = apps.get_model("pricing", model)._meta
        schema_editor.execute(
            _sqlite_history(meta.db_table, [field.column for field in meta.local_fields])
        )


def drop(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            "ALTER TABLE pricing_model_price DROP CONSTRAINT IF EXISTS model_prices_do_not_overlap"
        )
        for table in LISTS:
            schema_editor.execute(f"DROP TRIGGER IF EXISTS {table}_is_history ON {table}")
        schema_editor.execute("DROP FUNCTION IF EXISTS refuse_list_change()")
        return
    for trigger in ("model_prices_do_not_overlap", *(f"{table}_is_history" for table in LISTS)):
        schema_editor.execute(f"DROP TRIGGER IF EXISTS {trigger}")


class Migration(migrations.Migration):
    dependencies = [("pricing", "0001_initial")]
    operations = [migrations.RunPython(create, drop)]
