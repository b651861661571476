"""The contracts between the parts: messages, topics, event encoding, digest, partitioner. Imports nothing of ours."""

SCHEMA_VERSION = 1
