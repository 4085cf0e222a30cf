"""A tensor-parallel transformer's decode step with random weights: what bench/decode.py
measures."""
