#!/usr/bin/env bash
# Installs what the project needs and what is missing: Debian packages (as root) and .venv from the lock. Safe to repeat.
# With the argument `tests` also what only the tests need.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p .stdweb && chmod 700 .stdweb
exec 9> .stdweb/setup.lock
flock 9

lists=(deploy/apt-packages.txt)
[[ ${1:-} != tests ]] || lists+=(deploy/apt-packages-tests.txt)
mapfile -t packages < <(cat "${lists[@]}")
missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2> /dev/null || true)
    [[ $status == "install ok installed" ]] || missing+=("$package")
done

if ((${#missing[@]})); then
    if ((EUID != 0)); then
        echo "Missing Debian packages: ${missing[*]}" >&2
        echo "Install them, then repeat:" >&2
        echo "  sudo apt-get update && sudo apt-get install --yes --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    echo "Installing Debian packages: ${missing[*]}"
    # The stack starts a broker node of its own: the package is kept from starting one for the system.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update --quiet=2
    apt-get install --quiet=2 --yes --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" > .stdweb/apt.log 2>&1 || {
        tail -n 30 .stdweb/apt.log >&2
        echo "apt-get failed; its output is in .stdweb/apt.log" >&2
        exit 1
    }
    # nor is one started the next time that the machine is: what was not there before is ours alone
    for service in rabbitmq-server prometheus; do
        [[ " ${missing[*]} " != *" $service "* ]] || systemctl disable --quiet "$service" 2> /dev/null || true
    done
fi

python=""
for candidate in ${PYTHON:-} /usr/bin/python3.11 python3.11 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null; then
        python=$candidate
        break
    fi
done
if [[ -z $python ]]; then
    echo "Python 3.11 with venv is needed and was not found. Name one: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
fi

wanted=$(cat requirements.lock pyproject.toml <(pwd) | sha256sum)
if [[ $(cat .venv/.installed 2> /dev/null) != "$wanted" ]]; then
    echo "Installing the locked Python packages into .venv (some minutes on a first run)"
    [[ -x .venv/bin/python ]] || "$python" -m venv .venv
    pip=(.venv/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input)
    "${pip[@]}" install --require-hashes --requirement requirements.lock
    "${pip[@]}" install --no-deps --no-build-isolation --editable .
    echo "$wanted" > .venv/.installed
fi
