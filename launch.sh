#!/usr/bin/env bash
# bash launch.sh                       opens the window (--port N, --listen, --workspace FOLDER, --no-browser)
# bash launch.sh VERB [arguments]      demo, caption, trigger, train, grid, check ... each with --help
# bash launch.sh test [arguments]      the tests; arguments go to pytest
#
# The first start makes .venv beside this file and installs into it: see nosnja_gui/install.py.
set -u

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="$root/.venv/bin/python"
install="$root/nosnja_gui/install.py"

# The user's own default comes first, then any Python that suits: those on the PATH, pyenv's, and uv's.
find_python() {
    local candidate
    for candidate in python3 python python3.12 python3.13 python3.11 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[123]*/bin/python; do
        if "$candidate" -I "$install" suitable >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    command -v uv >/dev/null || return 1
    echo "[nosnja] No Python 3.11 to 3.13 here: letting uv bring one." >&2
    uv python find 3.12 2>/dev/null || { uv python install 3.12 >&2 && uv python find 3.12; }
}

tests=()
[ "${1-}" = test ] && tests=(--tests)
# -S and -I: this question is asked at every start, so Python comes up with the least it can.
if ! { [ -x "$python" ] && "$python" -I -S "$install" ready ${tests[@]+"${tests[@]}"} 2>/dev/null; }; then
    if ! base="$(find_python)"; then
        echo "[nosnja] Nosnja needs Python 3.11, 3.12 or 3.13 with venv (on Debian and Ubuntu: sudo apt install python3-venv)," \
            "or the program uv, which brings one: install either and run this again." >&2
        exit 1
    fi
    "$base" -I "$install" install ${tests[@]+"${tests[@]}"} || exit
fi

# Found from any folder, so that relative paths in the arguments are the user's.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
case "${1-}" in
    "" | -*)
        exec "$python" "$root/app.py" "$@"
        ;;
    test)
        shift
        cd "$root" || exit
        "$python" -m ruff check . && exec "$python" -m pytest "$@"
        ;;
    *)
        # -P: a file random.py in the user's folder is not ours.
        exec "$python" -P -m nosnja_gui "$@"
        ;;
esac
