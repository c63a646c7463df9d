"""The gateway: the REST API, authentication, files, and the coordinator of runs. It touches no pixels."""
