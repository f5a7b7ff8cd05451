"""What Langfuse's server makes of the spans of any tracer: pure, and told by tables.

The rules are those of Langfuse 4.16.0 (packages/shared/src/server/otel, August 2026).
"""
