"""Speech-to-text for Pipecat: the service, and a transport that plays recordings."""
