#!/usr/bin/env bash
# tools/setup.sh EXTRAS [PACKAGE...]: make .venv and install the package with these extras, once per
# pyproject.toml; Debian packages first, when any are named and missing. Says in one line what it does.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
extras=$1; shift

say()  { printf '%s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

# Debian packages, as root or with a sudo that asks nothing; else the one command to run.
debian() {
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || stop "Missing: $*. Run: sudo apt-get install -y $*"
        sudo=(sudo -n)
    fi
    command -v apt-get >/dev/null || stop "Missing: $*. Install them with this system's package manager."
    say "Installing from Debian: $*"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -qq >/dev/null
    "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    stop "Python 3.11 or newer is needed; $PYTHON is not. Name one: make PYTHON=python3.12 ..."

missing=()
for package in "$@"; do
    case $package in
        chromium) command -v chromium >/dev/null ;;
        nodejs) command -v node >/dev/null ;;
        pandoc) command -v pandoc >/dev/null ;;
        *) dpkg -s "$package" >/dev/null 2>&1 ;;
    esac || missing+=("$package")
done
[ ${#missing[@]} = 0 ] || debian "${missing[@]}"

# The stamp's name holds what was installed; an edit of pyproject.toml makes it another name.
key=$(sha256sum pyproject.toml | cut -c1-12)
stamp=.venv/.installed-$extras-$key
[ ! -e "$stamp" ] || exit 0

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || debian "$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    "$PYTHON" -m venv .venv
fi
say "Installing anomalib_nb[$extras] into .venv (the first time takes minutes)"
.venv/bin/python -m pip install -qq --disable-pip-version-check -e ".[$extras]"
rm -f .venv/.installed-*
touch "$stamp"
# What the tests need holds what the quickstart needs.
[ "$extras" != dev ] || touch ".venv/.installed-notebook,openvino,onnx-$key"
