"""Which attribute says what, by the convention that it is of. Where several do, the first wins."""

from langfuse import LangfuseOtelSpanAttributes as Langfuse

# Of Langfuse, of its metadata, and of Vercel's AI SDK.
USER_ID = (
    "langfuse.user.id",
    Langfuse.TRACE_USER_ID,
    f"{Langfuse.OBSERVATION_METADATA}.langfuse_user_id",
    f"{Langfuse.TRACE_METADATA}.langfuse_user_id",
    "ai.telemetry.metadata.userId",
)
SESSION_ID = (
    "langfuse.session.id",
    Langfuse.TRACE_SESSION_ID,
    "gen_ai.conversation.id",
    f"{Langfuse.OBSERVATION_METADATA}.langfuse_session_id",
    f"{Langfuse.TRACE_METADATA}.langfuse_session_id",
    "ai.telemetry.metadata.sessionId",
)
TAGS = (
    Langfuse.TRACE_TAGS,
    "langfuse.tags",
    f"{Langfuse.OBSERVATION_METADATA}.langfuse_tags",
    f"{Langfuse.TRACE_METADATA}.langfuse_tags",
    "ai.telemetry.metadata.tags",
    "tag.tags",
)
# Of the span or of its resource.
ENVIRONMENT = (Langfuse.ENVIRONMENT, "deployment.environment.name", "deployment.environment")
# What answered comes before what was asked for.
MODEL = (
    Langfuse.OBSERVATION_MODEL,
    "gen_ai.response.model",
    "ai.model.id",
    "gen_ai.request.model",
    "llm.response.model",
    "llm.model_name",
    "model",
)
# A total in USD. OTel's conventions and OpenLLMetry, then OpenInference.
TOTAL_COST = ("gen_ai.usage.cost", "llm.cost.total")
PROMPT_NAME = (Langfuse.OBSERVATION_PROMPT_NAME, "langfuse.prompt.name")
PROMPT_VERSION = (Langfuse.OBSERVATION_PROMPT_VERSION, "langfuse.prompt.version")
PUBLIC = (Langfuse.TRACE_PUBLIC, "langfuse.public")
MILLISECONDS_TO_FIRST_CHUNK = ("ai.response.msToFirstChunk", "ai.stream.msToFirstChunk")
# The spans of an AI SDK's agent carry the sums of the calls below them.
OPERATION = "gen_ai.operation.name"
OPERATIONS_OF_SUMS = ("invoke_agent", "agent_step")

COMMON_METADATA = "langfuse.metadata"
AI_SDK_METADATA = "ai.telemetry.metadata"
# They have their own place.
NOT_METADATA = frozenset(
    f"{AI_SDK_METADATA}.{key}" for key in ("userId", "sessionId", "tags", "langfusePrompt")
)
AI_SDK_PROMPT = f"{AI_SDK_METADATA}.langfusePrompt"

# What an input or output may be in, which isn't repeated in the metadata.
INPUT_OR_OUTPUT = frozenset(
    """
    langfuse.trace.input langfuse.trace.output
    langfuse.observation.input langfuse.observation.output
    ai.prompt.messages ai.prompt ai.toolCall.args ai.response.text ai.result.text
    ai.toolCall.result ai.response.object ai.result.object ai.response.toolCalls
    ai.result.toolCalls
    gcp.vertex.agent.llm_request gcp.vertex.agent.llm_response
    gcp.vertex.agent.tool_call_args gcp.vertex.agent.tool_response
    prompt all_messages_events events
    lk.input_text lk.user_transcript lk.chat_ctx lk.user_input lk.function_tool.output
    lk.response.text
    mlflow.spanInputs mlflow.spanOutputs
    traceloop.entity.input traceloop.entity.output
    input.value output.value
    final_result pydantic_ai.all_messages
    gen_ai.system_instructions
    input output
    gen_ai.input.messages gen_ai.output.messages
    gen_ai.tool.call.arguments gen_ai.tool.call.result
    genkit:input genkit:output
    flue.turn.input flue.turn.output flue.tool.arguments flue.tool.result flue.task.prompt
    flue.task.result flue.operation.result flue.workflow.payload flue.workflow.result
    """.split()
)
# Likewise all that begins so, and metadata, which is there under its own keys.
INPUT_OUTPUT_OR_METADATA = (
    "gen_ai.prompt",
    "gen_ai.completion",
    "llm.input_messages",
    "llm.output_messages",
    Langfuse.TRACE_METADATA,
    Langfuse.OBSERVATION_METADATA,
    AI_SDK_METADATA,
)
