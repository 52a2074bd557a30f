#!/usr/bin/env bash
# Install led-sglang from the parts of a wheelhouse, with no network:
#
#   bash offline_setup.sh [PARTS] [VENV]
#
# PARTS: folder of the parts and SHA256SUMS (default: this script's own). VENV: the virtual
# environment to make (default: ./led-venv). PYTHON: the interpreter (default: python3). WHEELS:
# folder for the rebuilt wheels (default: PARTS/wheels); it may be removed afterwards.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=$(cd "${1:-$here}" && pwd)
venv=${2:-led-venv}
wheels=${WHEELS:-$parts/wheels}

fail() {
    echo "offline_setup: $*" >&2
    exit 1
}

[ -f "$parts/SHA256SUMS" ] || fail "$parts holds no SHA256SUMS: is it the folder of the parts?"

python=${PYTHON:-python3}
wanted=$(cat "$parts/PYTHON_VERSION") || fail "PYTHON_VERSION is missing: copy it again"
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = "$wanted" ] ||
    fail "the wheels are for Python $wanted and $python is $found: set PYTHON to a $wanted"

# Every file of the list that is a part, before anything is built from it.
rm -rf "$wheels"
mkdir -p "$wheels"
while read -r sum name; do
    case $name in
    *.part[0-9]*) ;;
    *) [ -f "$parts/$name" ] || continue ;; # a whole wheel, rebuilt below
    esac
    [ -f "$parts/$name" ] || fail "$name is missing: copy it again"
    echo "$sum  $parts/$name" | sha256sum --check --status || fail "$name is damaged: copy it again"
done <"$parts/SHA256SUMS"

while read -r sum name; do
    case $name in
    *.part[0-9]*) continue ;;
    esac
    if [ -f "$parts/$name" ]; then
        ln -s "$parts/$name" "$wheels/$name"
    else
        compgen -G "$parts/$name.part*" >/dev/null || fail "$name is missing: copy it again"
        cat "$parts/$name".part* >"$wheels/$name"
        echo "$sum  $wheels/$name" | sha256sum --check --status ||
            fail "$name does not add up from its parts: copy them again"
    fi
done <"$parts/SHA256SUMS"

"$python" -m venv "$venv"
own=("$wheels"/led_sglang-*.whl)
[ -f "${own[0]}" ] || fail "no wheel of led-sglang is among the parts"
"$venv/bin/pip" install --no-index --find-links "$wheels" --upgrade "${own[0]}${EXTRAS:+[$EXTRAS]}"
echo "installed in $venv"
