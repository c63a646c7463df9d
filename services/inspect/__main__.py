from shared.worker.runtime import main

from .spec import REQUESTS, SPECS

main("inspect", SPECS, REQUESTS)
