"""A small Hugging Face Hub on loopback, for tests: see ``tests/hub_server.py``, where it starts."""
