"""Models on disk and as messages: read, held to what is sound, and written."""
