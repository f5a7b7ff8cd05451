"""The demo: a made-up directory, and real traffic replayed through the tracer."""
