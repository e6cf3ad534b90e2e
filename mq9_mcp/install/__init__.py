"""`mq9-mcp install` and `mq9-mcp uninstall`: adds mq9 to an agent's settings, and takes out exactly that again.

Everything is shown before it is written. What others wrote is left alone, byte for byte.
"""
