"""`mq9-mcp doctor`: says what is installed, running and reachable, what is wrong, and how to mend it."""
