"""An embedded Langfuse-compatible server, for development, the demo and the tests (langfuse.md)."""
