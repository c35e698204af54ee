"""The models: synchronous, one function from audio to text. Knows no asyncio and no protocol."""
