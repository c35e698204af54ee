"""The server: one engine behind the protocols that clients already speak.

Each protocol is one module, a *dialect*: a translation of its messages to a session and back. What
all of them need (admission, queues, limits, draining) is in ``server.py`` and ``conversation.py``.
"""
