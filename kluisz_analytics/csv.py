"""JSON, and CSV of the same rows as a download."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.views import APIView

__all__ = ["CSVRenderer", "JSONRenderer", "csv_lines"]

ROW_LISTS = ("results", "series")
# A cell that begins with one of these is a formula to a spreadsheet.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class CSVRenderer(BaseRenderer):
    """The rows of a list or a series as CSV; an error stays what it is, in JSON."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None) -> Any:
        response = (renderer_context or {}).get("response")
        rows = next((data[name] for name in ROW_LISTS if isinstance(data, Mapping) and name in data), None)
        if rows is None or (response is not None and response.status_code >= 400):
            if response is not None:
                response.content_type = "application/json"
            return JSONRenderer().render(data)
        view: APIView | None = (renderer_context or {}).get("view")
        if response is not None:
            response["Content-Disposition"] = f'attachment; filename="{getattr(view, "file_name", "usage")}.csv"'
        return "".join(csv_lines(rows))


class Echo:
    """A file that hands back what is written to it."""

    def write(self, line: str) -> str:
        return line


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The rows as CSV lines, the header first; nothing for no rows."""
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.writer(Echo())
            yield writer.writerow(row)
        yield writer.writerow([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    """A cell; text that a spreadsheet would run as a formula gets a quote before it."""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
