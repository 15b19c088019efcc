#!/bin/sh
# Installs what the benchmarks compare kernelq with, into .bench/ and from Debian. Nothing of it is
# needed to use, build or test kernelq. PYTHON chooses the interpreter of the peers: take the one
# that runs kernelq.
set -eu
cd "$(dirname "$0")/.."

missing=
for pair in nginx:nginx-light varnishd:varnish wrk:wrk cc:gcc; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -e /usr/include/ev.h ] || missing="$missing libev-dev"     # bjoern's event loop
if [ -n "$missing" ]; then
    echo "from Debian:$missing"
    [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
    # shellcheck disable=SC2086
    timeout 600 $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends $missing
    for service in nginx varnish; do                         # installed for us: need not run
        case "$missing" in *$service*)
            $sudo systemctl disable --now "$service" varnishncsa 2>/dev/null || true ;;
        esac
    done
fi

mkdir -p .bench
[ -x .bench/venv/bin/python ] || "${PYTHON:-python3}" -m venv .bench/venv
timeout 900 .bench/venv/bin/python -m pip install -q --disable-pip-version-check --upgrade \
    setuptools wheel fastpysgi bjoern granian gunicorn uWSGI waitress
cc -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -o .bench/floor bench/floor/floor.c
echo "ready: python -m bench.macro.compare --quick"
