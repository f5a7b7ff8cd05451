"""Replays runs through our tracer and the real SDK, as a flow engine would send them."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from usage.demo.traffic import DemoRun
from usage.langfuse.tracer import LangfuseTracer
from usage.langfuse.tracing_client import TracingClient

# The SDK's queue holds 2,048 spans and drops what is over; a live engine never fills it, a replay
# would.
RUNS_A_FLUSH = 500
PROMPT_TIME = timedelta(milliseconds=40)


def replay(runs: Sequence[DemoRun], client: TracingClient, progress: Callable[[int], None]) -> None:
    """Trace every run, three spans each (flow, prompt, model call); ``progress`` gets the number of
    runs sent so far.
    """
    for number, run in enumerate(runs, start=1):
        _trace(run, client)
        if number % RUNS_A_FLUSH == 0 or number == len(runs):
            client.flush()
            progress(number)


def _trace(run: DemoRun, client: TracingClient) -> None:
    error = TimeoutError("The model did not answer in time.") if run.is_failed else None
    tracer = LangfuseTracer(
        run.flow_name,
        "chain",
        "Kluisz Kanvas",
        run.run_id,
        user_id=run.user_id,
        session_id=f"{run.user_id[:8]}-{run.start_time:%Y%m%d}",
        tenant_id=run.tenant_id,
        kluisz_project_id=run.project_id,
        kluisz_flow_id=run.flow_id,
        start_time=run.start_time,
        client=client,
    )
    asked = run.start_time + PROMPT_TIME
    tracer.add_trace("prompt", "Prompt", "prompt", start_time=run.start_time)
    tracer.end_trace("prompt", "Prompt", end_time=asked)
    usage = {"input": run.input_tokens, "output": run.output_tokens}
    tracer.add_generation(
        "Model call", run.model, usage, error=error, start_time=asked, end_time=run.end_time
    )
    tracer.end(error=error, end_time=run.end_time)
