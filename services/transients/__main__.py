from shared.worker.runtime import main

from .spec import SPECS

main("transients", SPECS)
