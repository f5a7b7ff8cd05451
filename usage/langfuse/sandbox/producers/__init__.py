"""Recorded exports of others' tracers, and their replay as if they were made now.

``NAME.jsonl``: a line is an export request (protobuf as JSON), as it came from the real framework
at work against a fake provider.
"""

import re
import secrets
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from langfuse import LangfuseOtelSpanAttributes as Langfuse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

RECORDINGS = Path(__file__).parent
SUFFIX = ".jsonl"


def producers() -> list[str]:
    """The names of all recordings."""
    return sorted(path.name.removesuffix(SUFFIX) for path in RECORDINGS.glob(f"*{SUFFIX}"))
