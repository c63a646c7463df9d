"""Everything on one machine, kept running by a supervisor: broker node and store of its own, gateway, services."""
