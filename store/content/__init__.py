"""The bytes of items: append-only segments of frames that name their item."""
