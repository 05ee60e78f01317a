# Sourced by scripts/quickstart and scripts/test, from the project root: prepares the virtual environment .venv.
# PYTHON=/path/to/python chooses the interpreter of a new one; otherwise the first of 3.11 or newer on PATH is taken.

say() { printf '== %s\n' "$1"; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "missing or does not run"; }

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is $(version_of "$PYTHON"); ars_jax needs Python 3.11 or newer"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer on PATH (python3 is $(version_of python3)); install one, or set PYTHON=/path/to/python"
}

make_venv() {
    local python
    if [[ -x .venv/bin/python ]] && is_new_enough .venv/bin/python && .venv/bin/python -c 'import pip' 2>/dev/null; then
        return
    fi
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module; on Debian or Ubuntu: apt install python3-venv (or python3.11-venv, as the version is)"
    say "virtual environment .venv with Python $(version_of "$python")"
    "$python" -m venv --clear .venv
}

# prepare_environment EXTRA: .venv holds ars_jax (editable) with that extra; nothing happens if it already does.
prepare_environment() {
    local extra=$1 stamp installed
    make_venv
    stamp=.venv/ars_jax-$extra.installed
    installed="$PWD $(cksum <pyproject.toml)"
    if [[ -f $stamp && $(<"$stamp") == "$installed" ]]; then
        return
    fi
    say "installing ars_jax[$extra] and its libraries into .venv (a minute or two the first time)"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --editable ".[$extra]" ||
        fail "pip could not install ars_jax[$extra]: its reason is above (is the package index reachable?)"
    echo "$installed" >"$stamp"
}
