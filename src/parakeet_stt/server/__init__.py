"""The server: one engine behind several speech-to-text protocols.

A protocol is a module of ``protocols/``; it does no input or output. What all of them share is in
the modules here: ``admission`` (limits on sessions and requests), ``conversation`` (one streaming
client from start to end), ``uploads`` (files over HTTP), ``app`` and ``serve`` (paths and ports).
"""
