"""The asyncio client; the synchronous one is generated from it by client_sdk/unasync.py."""
