# Generated from ../_async/__init__.py by client_sdk/unasync.py; change that, then `make gen`.
"""The synchronous client."""
