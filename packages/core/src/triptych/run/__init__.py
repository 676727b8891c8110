"""One run: settings, folder, signals, provenance, session."""
