"""Arbiter behind the calling conventions of inference engines. docs/engines.md has the lines for
each."""
