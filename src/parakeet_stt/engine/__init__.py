"""Sessions over one inference thread: asynchronous, and independent of any protocol."""
