"""Benchmarks of the broker and the MCP server beside nats-server and Redis: `python -m benchmarks --help`.

Nothing here is a test: figures depend on the machine, so all servers run in the same minute, in alternating rounds,
and what is worth reading is the ratio.
"""
