"""The mq9 broker: agent mailboxes over the NATS client protocol."""

__version__ = "0.1.0"
