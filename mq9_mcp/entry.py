"""The `mq9` command: a hook at once, everything else through the command line's parser."""

from __future__ import annotations

import sys


def main() -> int:
    """A coding agent waits for its hooks: they do without the parser, which takes longer to load than they run. What
    runs beside every session does without it for the memory."""
    if sys.argv[1:2] == ["hook"]:
        from mq9_mcp import hook

        return hook.main(sys.argv[2:])
    if sys.argv[1:3] == ["wait", "--monitor"] and sys.argv[3:] == ["claude-code"]:
        from mq9_mcp import wait

        return wait.monitor("claude-code")
    from mq9_mcp import cli

    return cli.main()
