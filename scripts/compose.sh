#!/usr/bin/env bash
# The stack in containers: `compose.sh answers` tells whether a Docker engine with Compose is there; up, down, status.
set -euo pipefail
cd "$(dirname "$0")/.."

compose() {
    docker compose --file deploy/compose/compose.yaml "$@"
}

case ${1:-} in
    answers)
        docker info > /dev/null 2>&1 && docker compose version > /dev/null 2>&1
        ;;
    up)
        python3 scripts/make_secrets.py
        compose up --detach --build --wait
        address=$(compose port gateway 8000)
        echo "STDWeb runs at http://$address/api, its calls are described at http://$address/api/docs/"
        echo "A first user: docker compose --file deploy/compose/compose.yaml exec -T gateway stdweb user add NAME --password-stdin"
        echo "What runs: make status   End: make down (tasks stay in their volumes)"
        ;;
    down)
        # Without secrets it was never started here, and the file cannot be read.
        [[ -e deploy/compose/.env ]] || exit 0
        compose down
        ;;
    status)
        [[ -e deploy/compose/.env ]] || exit 3
        running=$(compose ps --quiet)
        [[ -n $running ]] || exit 3
        compose ps
        ;;
    *)
        echo "usage: compose.sh answers|up|down|status" >&2
        exit 2
        ;;
esac
