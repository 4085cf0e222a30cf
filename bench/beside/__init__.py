"""Allreduces of several libraries under one harness: what bench/peers.py measures."""
