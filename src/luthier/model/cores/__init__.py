"""Implementations of attention from queries, keys and values. `core` has the protocol, `choice` chooses one."""
