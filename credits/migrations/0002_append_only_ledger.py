"""The ledger is append-only: the database itself refuses to change or delete a transaction
(domain.md, Credits).
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

MESSAGE = "The ledger is append-only: post a refund or an adjustment instead."

POSTGRESQL = [
    f"""
    CREATE OR REPLACE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'integrity_constraint_violation';
    END $$
    """,
    """
    CREATE TRIGGER transaction_is_append_only BEFORE UPDATE OR DELETE ON "transaction"
    FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change()
    """,
]
POSTGRESQL_UNDO = [
    'DROP TRIGGER IF EXISTS transaction_is_append_only ON "transaction"',
    "DROP FUNCTION IF EXISTS refuse_ledger_change()",
]
SQLITE = [
    f"""
    CREATE TRIGGER transaction_is_append_only_{event.lower()} BEFORE {event} ON "transaction"
    BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END
    """
    for event in ("UPDATE", "DELETE")
]
SQLITE_UNDO = [
    f"DROP TRIGGER IF EXISTS transaction_is_append_only_{event}" for event in ("update", "delete")
]


def _run(statements: dict[str, list[str]], schema_editor: BaseDatabaseSchemaEditor) -> None:
    for statement in statements[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def create(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    _run({"postgresql": POSTGRESQL, "sqlite": SQLITE}, schema_editor)


def drop(apps: object, schema_editor: BaseDatabaseSchemaEditor) -> None:
    _run({"postgresql": POSTGRESQL_UNDO, "sqlite": SQLITE_UNDO}, schema_editor)


class Migration(migrations.Migration):
    dependencies = [("credits", "0001_initial")]
    operations = [migrations.RunPython(create, drop)]
