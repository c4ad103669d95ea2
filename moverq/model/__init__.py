"""The values everything else speaks in: frozen, without clock, file or waiting."""
