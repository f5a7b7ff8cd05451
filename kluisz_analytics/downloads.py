"""The rows of an answer as a download: CSV, or JSON Lines; as a whole, or streamed row by row."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.http import StreamingHttpResponse
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import APIView

ROW_LISTS = ("results", "series")
# A cell that begins with one of these is a formula to a spreadsheet.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class RowsRenderer(BaseRenderer):
    """The rows of a list or a series; an error stays what it is, in JSON."""

    charset = "utf-8"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> Any:
        response = (renderer_context or {}).get("response")
        rows = next(
            (data[name] for name in ROW_LISTS if isinstance(data, Mapping) and name in data), None
        )
        if rows is None or (response is not None and response.status_code >= 400):
            if response is not None:
                response.content_type = "application/json"
            return JSONRenderer().render(data)
        view: APIView | None = (renderer_context or {}).get("view")
        if response is not None:
            response["Content-Disposition"] = _attachment(
                getattr(view, "file_name", "usage"), self.format
            )
        return "".join(LINES[self.format](rows))


class CSVRenderer(RowsRenderer):
    media_type = "text/csv"
    format = "csv"


class JSONLinesRenderer(RowsRenderer):
    media_type = "application/x-ndjson"
    format = "jsonl"


def streamed(
    rows: Iterable[Mapping[str, Any]], renderer: BaseRenderer, file_name: str
) -> StreamingHttpResponse:
    """The rows as they come, in the renderer's form, however many there are."""
    headers = {"Content-Disposition": _attachment(file_name, renderer.format)}
    content_type = f"{renderer.media_type}; charset=utf-8"
    return StreamingHttpResponse(
        LINES[renderer.format](rows), content_type=content_type, headers=headers
    )


def _attachment(file_name: str, form: str) -> str:
    return f'attachment; filename="{file_name}.{form}"'


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


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Each row as a JSON object on a line of its own."""
    encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    for row in rows:
        yield f"{encode(row)}\n"


LINES = {"csv": csv_lines, "jsonl": json_lines}


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
