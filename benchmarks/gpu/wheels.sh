#!/usr/bin/env bash
# Carry Python wheels to a machine without a network, in parts below a size limit, and install them there.
#
#   wheels.sh split WHEELS PARTS [MIB]   pack WHEELS/*.whl into PARTS/part-00/wheels.tar.00, part-01/..., each of at most
#                                        MIB (default 48, at most 60), with the checksums in every part
#   wheels.sh join PARTS WHEELS          check all parts and the whole, and unpack them into WHEELS
#   wheels.sh install WHEELS SITE MODULE install WHEELS/*.whl into the folder SITE, for PYTHONPATH, without a network;
#                                        code 77 where MODULE is not there and WHEELS holds no wheel
#
# PYTHON names the interpreter (default python3).
set -euo pipefail
shopt -s nullglob
PYTHON=${PYTHON:-python3}

fail() {
    echo "wheels.sh: $1" >&2
    exit "${2:-2}"
}

split_wheels() {
    local wheels=$1 parts=$2 mib=${3:-48} whole piece folder files
    files=("$wheels"/*.whl)
    [ ${#files[@]} -gt 0 ] || fail "$wheels holds no wheel: make some with 'pip wheel --wheel-dir $wheels PACKAGE'"
    [[ $mib =~ ^[0-9]+$ ]] && [ "$mib" -ge 1 ] && [ "$mib" -le 60 ] || fail "a part must be of 1 to 60 MiB, got $mib"
    [ ! -e "$parts" ] || fail "$parts exists: name a folder that does not"
    mkdir -p "$parts"
    whole=$parts/wheels.tar
    tar -cf "$whole" -C "$wheels" -- "${files[@]##*/}"
    (cd "$parts" && split -b "${mib}M" -d -a 2 wheels.tar wheels.tar. && sha256sum wheels.tar wheels.tar.* >SHA256SUMS)
    rm "$whole"
    for piece in "$parts"/wheels.tar.*; do
        folder=$parts/part-${piece##*.}
        mkdir "$folder"
        mv "$piece" "$folder"
        cp "$parts/SHA256SUMS" "$folder"
    done
    rm "$parts/SHA256SUMS"
    du -h "$parts"/part-*/wheels.tar.*
}

join_wheels() {
    local parts=$1 wheels=$2 sums pieces joined
    sums=("$parts"/part-*/SHA256SUMS)
    pieces=("$parts"/part-*/wheels.tar.*)
    [ ${#sums[@]} -gt 0 ] || fail "$parts holds no part-NN with SHA256SUMS: carry the folders that split made"
    joined=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf -- '$joined'" EXIT
    cp "${sums[0]}" "${pieces[@]}" "$joined"
    (cd "$joined" && cat wheels.tar.* >wheels.tar && sha256sum --check --quiet SHA256SUMS) ||
        fail "the parts in $parts are not those that split made: carry every part again" 1
    mkdir -p "$wheels"
    tar -xf "$joined/wheels.tar" -C "$wheels"
    ls -- "$wheels"
}

install_wheels() {
    local wheels=$1 site=$2 module=$3 files
    files=("$wheels"/*.whl)
    if [ ${#files[@]} -gt 0 ]; then
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
            "${files[@]}"
    elif ! "$PYTHON" -c "import $module" 2>/dev/null; then
        fail "$module is not installed, and $wheels holds no wheel" 77
    fi
    PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" -c "import $module; print('$module', $module.__version__)"
}

case "${1-} $#" in
    "split 3" | "split 4") split_wheels "${@:2}" ;;
    "join 3") join_wheels "${@:2}" ;;
    "install 4") install_wheels "${@:2}" ;;
    *) fail "expected split WHEELS PARTS [MIB], join PARTS WHEELS, or install WHEELS SITE MODULE" ;;
esac
