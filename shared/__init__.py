"""What the gateway and the services have in common: contracts, broker, worker runtime, files, settings, logs."""
