"""Everything that knows Langfuse's names: the wire types, the client, the tracer and the sandbox
server.
"""
