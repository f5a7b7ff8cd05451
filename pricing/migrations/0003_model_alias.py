"""What names of models mean; a list, and so its own history.

A migration of its own: it needs the usage app's connections, and nothing else here does.
"""

from importlib import import_module

import django.db.models.deletion
import django.db.models.functions.text
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

import pricing.models

TABLE = "pricing_model_alias"
TRIGGER = f"{TABLE}_is_history"


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            f"CREATE TRIGGER {TRIGGER} BEFORE UPDATE ON {TABLE} FOR EACH ROW"
            " EXECUTE FUNCTION refuse_list_change()"
        )
        return
    history = import_module("pricing.migrations.0002_lists_are_history")
    columns = [field.column for field in apps.get_model("pricing", "ModelAlias")._meta.local_fields]
    schema_editor.execute(history._sqlite_history(TABLE, columns))


def drop(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    table = f" ON {TABLE}" if schema_editor.connection.vendor == "postgresql" else ""
    schema_editor.execute(f"DROP TRIGGER IF EXISTS {TRIGGER}{table}")


class Migration(migrations.Migration):
    dependencies = [
        ("pricing", "0002_lists_are_history"),
        ("usage", "0002_room_for_updates"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="ModelAlias",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "recorded_at",
                    models.DateTimeField(default=django.utils.timezone.now, editable=False),
                ),
                ("withdrawn_at", models.DateTimeField(blank=True, editable=False, null=True)),
                (
                    "name",
                    models.CharField(
                        help_text="As it stands in traces; one * is any text: acme/*.",
                        max_length=200,
                    ),
                ),
                (
                    "model",
                    models.CharField(
                        blank=True,
                        help_text="Such as azure/gpt-4o. Its * is what the name's stands for.",
                        max_length=200,
                    ),
                ),
                (
                    "provider",
                    models.CharField(
                        blank=True,
                        choices=pricing.models.providers,
                        help_text="Who is paid for it. Empty: as the model says.",
                        max_length=50,
                    ),
                ),
                ("valid_from", models.DateTimeField()),
                (
                    "connection",
                    models.ForeignKey(
                        blank=True,
                        help_text="Only in what this one reads. Empty: in all usage.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="usage.langfuseconnection",
                    ),
                ),
                (
                    "recorded_by",
                    models.ForeignKey(
                        blank=True,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "withdrawn_by",
                    models.ForeignKey(
                        blank=True,
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "model aliases",
                "db_table": "pricing_model_alias",
                "ordering": ["name", "-valid_from", "-recorded_at"],
                "constraints": [
                    models.UniqueConstraint(
                        models.F("connection"),
                        django.db.models.functions.text.Lower("name"),
                        models.F("valid_from"),
                        condition=models.Q(("withdrawn_at__isnull", True)),
                        name="one_meaning_a_connection_and_moment",
                    ),
                    models.UniqueConstraint(
                        django.db.models.functions.text.Lower("name"),
                        models.F("valid_from"),
                        condition=models.Q(
                            ("withdrawn_at__isnull", True), ("connection__isnull", True)
                        ),
                        name="one_meaning_for_all_a_moment",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("model", ""), ("provider", ""), _negated=True),
                        name="alias_says_something",
                    ),
                ],
            },
        ),
        migrations.RunPython(create, drop),
    ]
