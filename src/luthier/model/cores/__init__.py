"""How attention is computed from queries, keys and values. See `core` for the protocol, `choice` for the choice."""
