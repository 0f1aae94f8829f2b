"""One small atomic key-value store for everything that processes have to agree on."""
