"""``manage.py browser_client``: writes the browser client's types anew, from the OpenAPI schema
(``make client``).
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from drf_spectacular.generators import SchemaGenerator

TYPES = settings.BASE_DIR / "static" / "kluisz" / "client" / "schema.d.ts"
TOOLS = settings.BASE_DIR / "tests" / "client"


def current_schema() -> bytes:
    """The OpenAPI schema as JSON."""
    return json.dumps(
        SchemaGenerator().get_schema(request=None, public=True), sort_keys=True, default=str
    ).encode()


def header_of(schema: bytes) -> str:
    """The first line of the types that belong to a schema."""
    return (
        "// Made by `make client` from the OpenAPI schema with the digest"
        f" {hashlib.sha256(schema).hexdigest()}."
    )


class Command(BaseCommand):
    help = "Write the browser client's types anew, from the OpenAPI schema. Needs Node."

    def handle(self, *args: Any, **options: Any) -> None:
        npm, npx = shutil.which("npm"), shutil.which("npx")
        if not npm or not npx:
            raise CommandError(
                "The types are made by openapi-typescript, which needs Node: install the package"
                " npm."
            )
        if not (TOOLS / "node_modules").exists():
            subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=TOOLS, check=True)
        schema = current_schema()
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder) / "schema.json", Path(folder) / "schema.d.ts"
            source.write_bytes(schema)
            subprocess.run(
                [npx, "openapi-typescript", str(source), "-o", str(made)], cwd=TOOLS, check=True
            )
            TYPES.write_text(f"{header_of(schema)}\n{made.read_text()}")
        self.stdout.write(f"Wrote {TYPES.relative_to(settings.BASE_DIR)}")
